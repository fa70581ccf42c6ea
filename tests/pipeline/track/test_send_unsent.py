"""What MLflow refuses is kept and said, and does not keep back the rest."""

import socket
import threading

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy.exc import OperationalError

from pipeline.config import TrackConfig
from pipeline.track import send_unsent as sending
from pipeline.track.mlflow_run import open_run
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.send_unsent import UnsentCount, count_unsent, send_run, send_unsent
from pipeline.track.unsent_run import STATUS, TAGS, UnsentRun


@pytest.fixture
def ended(run_config):
    """A run that has ended, and what is kept of it."""
    with open_run(run_config, "train") as run:
        pass
    return MlflowClient(run.uri), run


def keep_metrics(unsent, *keys):
    unsent.metrics().keep([Metric(key, 0.5, 1000, 1) for key in keys])


def test_tags_and_status_are_sent_although_an_artifact_is_refused(ended, monkeypatch):
    client, run = ended
    run.unsent.keep_text("large.bin", "too large")
    run.unsent.keep_tags({"device": "cpu"})
    run.unsent.keep_tags({"accumulate_after_out_of_memory": "2"})
    run.unsent.keep_note(STATUS, "FAILED")

    def refuse(*_arguments):
        raise requests.HTTPError("413 Request Entity Too Large")

    monkeypatch.setattr(client, "log_artifact", refuse)
    failure = send_run(client, run.uri, run.unsent)
    assert str(failure).startswith("1 artifact not taken: large.bin: HTTPError: 413")
    assert not failure.is_lost
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["device"] == "cpu"
    assert stored.data.tags["accumulate_after_out_of_memory"] == "2"
    assert run.unsent.artifacts() == ["large.bin"] and run.unsent.notes() == []


def test_the_metrics_of_a_run_that_was_deleted_in_mlflow_are_kept(ended, run_config):
    client, run = ended
    keep_metrics(run.unsent, "val/loss", "train/loss")
    client.delete_run(run.run_id)
    with pytest.raises(TrackingError, match="2 metrics of 1 MLflow run") as raised:
        send_unsent(run_config)
    assert "deleted in MLflow; restore it" in str(raised.value)
    assert f"or delete {run.unsent.url}" in str(raised.value)
    assert count_unsent(run_config.output).metrics == 2
    client.restore_run(run.run_id)
    assert send_unsent(run_config).metrics == 2
    assert client.get_run(run.run_id).data.metrics["val/loss"] == 0.5
    assert count_unsent(run_config.output) == UnsentCount()


def test_a_run_that_does_not_exist_does_not_keep_back_the_others(ended, run_config):
    client, run = ended
    keep_metrics(run.unsent, "loss")
    gone = UnsentRun(run_config.output, "0" * 32)
    gone.keep_text("note.txt", "a note")
    with pytest.raises(TrackingError, match=f"deleted for good, delete {gone.url}"):
        send_unsent(run_config)
    assert client.get_run(run.run_id).data.metrics["loss"] == 0.5
    assert count_unsent(run_config.output) == UnsentCount(runs=1, artifacts=1)


def test_a_metric_that_mlflow_refuses_is_kept_and_no_other(ended, run_config):
    client, run = ended
    keep_metrics(run.unsent, "a", "no such; name!", "b")
    with pytest.raises(TrackingError, match="MLflow refuses 1 metric"):
        send_unsent(run_config)
    assert {"a", "b"} <= client.get_run(run.run_id).data.metrics.keys()
    [kept] = run.unsent.metrics().restore()
    assert kept.key == "no such; name!"


def test_damaged_metrics_are_renamed_and_said_once(ended, run_config, tmp_path):
    _, run = ended
    keep_metrics(run.unsent, "loss")
    (file,) = tmp_path.rglob("metrics.jsonl")
    file.write_text('["loss", 1.0')
    with pytest.raises(TrackingError, match="was damaged, and cannot be sent"):
        send_unsent(run_config)
    assert not file.exists()
    assert file.with_name("damaged-metrics.jsonl").read_text() == '["loss", 1.0'
    assert send_unsent(run_config).runs == 0
    assert file.with_name("damaged-metrics.jsonl").exists()


def test_a_server_that_is_down_is_asked_for_one_run_only(run_config, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    for number in range(3):
        UnsentRun(run_config.output, str(number) * 32).keep_text("note.txt", "a note")
    requests_seen = []

    def hang_up(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            requests_seen.append(connection.recv(1000).split(b" ", 2)[1])
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up, args=(server,), daemon=True)
        thread.start()
        track = TrackConfig(uri=f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(TrackingError, match="3 artifacts of 3 MLflow runs") as raised:
            send_unsent(run_config.model_copy(update={"track": track}))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "Start the server" in str(raised.value)
    asked = [path for path in requests_seen if b"run_id=" in path]
    assert 1 <= len(asked) <= 2 and all(b"0" * 32 in path for path in asked)


def test_a_database_that_is_away_is_an_error_of_the_tracker(run_config, monkeypatch):
    UnsentRun(run_config.output, "0" * 32).keep_note(TAGS, {"device": "cpu"})

    def refuse(_config):
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr(sending, "open_store", refuse)
    with pytest.raises(TrackingError, match="did not take the tags of 1 MLflow run") as raised:
        send_unsent(run_config)
    assert "Start the server" in str(raised.value)


def test_the_count_names_what_waits():
    assert str(UnsentCount(1, notes=("tags",))) == "the tags of 1 MLflow run"
    assert str(UnsentCount(2, notes=("tags", "status"))) == "the tags and status of 2 MLflow runs"
    assert str(UnsentCount(1, metrics=1, artifacts=2)) == "1 metric and 2 artifacts of 1 MLflow run"
