"""Tracking and registry over HTTP: an MLflow server with PostgreSQL and an S3 bucket."""

import contextlib
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config import TrackConfig
from pipeline.track.artifact_upload import ArtifactUpload
from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_run import open_run
from pipeline.track.model_registry import register_model
from pipeline.track.promotion import Rule, promote
from pipeline.track.send_unsent import count_unsent, send_run, send_unsent
from pipeline.track.unsent_run import UnsentRun
from pipeline.track.weights_source import resolve_weights
from tests.mlflow_server import MlflowServer

pytestmark = pytest.mark.s3


def artifact(run, name):
    return Path(MlflowClient(run.uri).download_artifacts(run.run_id, name)).read_text()


def wait_until(is_true, timeout_s=60.0):
    """Wait for a background thread; an error counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if is_true():
                return
        time.sleep(0.1)
    assert is_true()


@pytest.fixture(scope="module")
def server(postgres, s3, tmp_path_factory):
    """A running server with a database and a bucket. The test that kills it must be the last."""
    started = MlflowServer(tmp_path_factory.mktemp("mlflow-server"), postgres, s3("mlflow"))
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


@pytest.mark.soak
def test_nothing_is_lost_when_the_server_is_killed_and_started_again(
    config, server, tmp_path, caplog
):
    caplog.set_level(logging.WARNING)
    (tmp_path / "plot.png").write_bytes(b"a plot")
    with open_run(config, "train") as run:
        file = Path(UnsentRun(config.output, run.run_id).metrics_url)
        uploads = ArtifactUpload(MlflowClient(run.uri), run.run_id, run.unsent)
        sink = MetricSink(
            run.uri,
            run.run_id,
            unsent=run.unsent.metrics(),
            follow_up=lambda _: uploads.send_kept(),
            retry_s=0.2,
        )
        sink.log({"loss": 1.0}, 1)
        assert sink.flush() == 0
        server.kill()
        for step in (2, 3):
            sink.log({"loss": float(step)}, step)
        uploads.text("while it is away", "facts/note.txt")
        assert sink.flush(timeout_s=3.0) == 2
        assert file.exists()
        server.start()
        assert sink.flush() == 0
        assert not file.exists()
        sink.log({"loss": 4.0}, 4)
        assert sink.flush() == 0
        # With the metrics: the store is not asked by a further upload.
        wait_until(lambda: artifact(run, "facts/note.txt") == "while it is away")
        server.kill()
        sink.log({"loss": 5.0}, 5)
        run.artifacts.file(tmp_path / "plot.png", "plots")
        run.artifacts.text("second", "second.txt")
        sink.close(timeout_s=1.0)
    messages = [record.message for record in caplog.records]
    assert sum("does not accept metrics" in message for message in messages) == 2
    assert sum("is available again" in message for message in messages) == 1
    assert sum("1 metrics could not be delivered; they are kept" in m for m in messages) == 1
    assert sum("could not be marked FINISHED" in message for message in messages) == 1

    client = MlflowClient(server.uri)
    # More are kept if the server was too slow for them.
    assert {"plots/plot.png", "second.txt"} <= set(run.unsent.artifacts())
    kept = count_unsent(config.output)
    assert (kept.runs, kept.metrics) == (1, 1)
    assert send_run(client, run.uri, run.unsent) is not None
    server.start()
    assert send_unsent(config) == kept
    assert (count_unsent(config.output).runs, send_unsent(config).runs) == (0, 0)
    assert artifact(run, "plots/plot.png") == "a plot"
    assert artifact(run, "second.txt") == "second"
    history = client.get_metric_history(run.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(n, n) for n in range(1, 6)]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert not file.exists()
