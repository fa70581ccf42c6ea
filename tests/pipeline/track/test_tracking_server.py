"""Tracking and registry over HTTP: an MLflow server with PostgreSQL and an S3 bucket."""

import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from pipeline.config import TrackConfig
from pipeline.track.metric_sink import MetricSink, send_unsent_metrics
from pipeline.track.mlflow_run import open_run
from pipeline.track.model_registry import register_model
from pipeline.track.promotion import Rule, promote
from pipeline.track.unsent_metrics import UnsentMetrics
from pipeline.track.weights_source import resolve_weights
from tests.mlflow_server import kill, wait_until_healthy
from tests.postgresql import free_port

pytestmark = pytest.mark.s3


class Server:
    """An MLflow server process that can be killed and started again on its port."""

    def __init__(self, folder, postgres, artifacts):
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.stores = (
            *("--backend-store-uri", postgres),
            *("--artifacts-destination", artifacts, "--serve-artifacts"),
        )

    def start(self):
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port), *self.stores),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self.process.uri = self.uri
        wait_until_healthy(self.process, self.folder / "log")

    def kill(self):
        kill(self.process)


@pytest.fixture(scope="module")
def server(postgres, s3, tmp_path_factory):
    """A running server with a database and a bucket. The test that kills it must be the last."""
    started = Server(tmp_path_factory.mktemp("mlflow-server"), postgres, s3("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        try:
            started.start()
            yield started
        finally:
            started.kill()


@pytest.fixture
def config(run_config, server):
    return run_config.model_copy(
        update={"track": TrackConfig(uri=server.uri, model_name="on-the-server")}
    )


def test_versions_are_promoted_stored_and_fetched_through_the_server(
    config, tiny_checkpoint, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other, ignore=shutil.ignore_patterns("checksums.json"))
    settings = (other / "model.json").read_text()
    (other / "model.json").write_text(settings.replace("circle", "disc"))
    with open_run(config, "train") as run:
        first = register_model(config, str(tiny_checkpoint), {"segm/AP": 0.3}, run.run_id, "d" * 64)
        worse = register_model(config, str(other), {"segm/AP": 0.2}, run.run_id, "d" * 64)
    assert run.url == f"{config.track.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert (first.promoted, worse.promoted) == (True, False)
    assert worse.champion_metric_value == 0.3
    with resolve_weights("models:/on-the-server@champion", config) as folder:
        for name in ("model.safetensors", "model.json"):
            assert (folder / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


def test_the_better_of_two_jobs_that_promote_at_once_is_the_champion(server):
    client = MlflowClient(server.uri, registry_uri=server.uri)
    for race in range(8):
        name = f"race-{race}"
        client.create_registered_model(name)
        tags = [{"dataset_digest": "d", "metric/segm/AP": str(value)} for value in (0.4, 0.3)]
        versions = [
            client.create_model_version(name, "s3://nowhere/model", tags=each) for each in tags
        ]
        with ThreadPoolExecutor(2) as jobs:
            promotions = [
                jobs.submit(promote, client, name, version, Rule("segm/AP"))
                for version in reversed(versions)
            ]
        # An error of either shows here.
        assert {promotion.result().name for promotion in promotions} == {name}
        aliases = client.get_registered_model(name).aliases
        assert str(aliases["champion"]) == str(versions[0].version)


def test_no_metric_is_lost_when_the_server_is_killed_and_started_again(
    config, server, tmp_path, caplog
):
    caplog.set_level(logging.WARNING)
    file = tmp_path / "unsent.jsonl"
    with open_run(config, "train") as run:
        sink = MetricSink(run.uri, run.run_id, unsent=UnsentMetrics(str(file)), retry_s=0.2)
        sink.log({"loss": 1.0}, 1)
        assert sink.flush() == 0
        server.kill()
        for step in (2, 3):
            sink.log({"loss": float(step)}, step)
        assert sink.flush(timeout_s=3.0) == 2
        assert file.exists()
        server.start()
        assert sink.flush() == 0
        assert not file.exists()
        sink.log({"loss": 4.0}, 4)
        assert sink.flush() == 0
        server.kill()
        sink.log({"loss": 5.0}, 5)
        sink.close(timeout_s=1.0)
    messages = [record.message for record in caplog.records]
    assert sum("does not accept metrics" in message for message in messages) == 2
    assert sum("is available again" in message for message in messages) == 1
    assert sum("1 metrics could not be delivered; they are kept" in m for m in messages) == 1
    assert sum("could not be marked FINISHED" in message for message in messages) == 1

    server.start()
    send_unsent_metrics(run.uri, run.run_id, UnsentMetrics(str(file)))
    client = MlflowClient(server.uri)
    history = client.get_metric_history(run.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(n, n) for n in range(1, 6)]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert not file.exists()
