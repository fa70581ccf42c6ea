"""Metrics that the tracker does not take are kept in a file, and sent by the next process."""

import logging

from mlflow import MlflowClient
from mlflow.entities import Metric

from pipeline.track.metric_sink import MetricSink
from pipeline.track.unsent_metrics import UnsentMetrics
from tests.pipeline.track.test_metric_sink import values


def blocked_uri(tmp_path):
    (tmp_path / "blocked").write_text("a file in place of the store's folder")
    return f"sqlite:///{tmp_path}/blocked/mlflow.db"


def test_the_next_process_sends_what_the_last_one_could_not(run, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    file = tmp_path / "train" / "unsent.jsonl"
    sink = MetricSink(blocked_uri(tmp_path), run.run_id, unsent=UnsentMetrics(str(file)))
    sink.log({"loss": 1.0, "not a number": float("nan")}, 1)
    sink.log({"loss": 0.5}, 2)
    sink.close(timeout_s=0.5)
    assert any("3 metrics could not be delivered; they are kept" in m for m in caplog.messages)
    assert not any("never delivered" in message for message in caplog.messages)
    assert file.exists()

    resumed = MetricSink(run.uri, run.run_id, unsent=UnsentMetrics(str(file)))
    resumed.log({"loss": 0.25}, 3)
    assert resumed.flush() == 0
    resumed.close()
    assert values(run, "loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert not file.exists()


def test_a_checkpoint_keeps_what_waits_even_if_the_process_is_killed_later(run, tmp_path):
    """A flush is what a checkpoint does; a killed process never comes to close."""
    file = tmp_path / "unsent.jsonl"
    killed = MetricSink(blocked_uri(tmp_path), run.run_id, unsent=UnsentMetrics(str(file)))
    killed.log({"loss": 1.0}, 1)
    assert killed.flush(timeout_s=0.3) == 1
    resumed = MetricSink(run.uri, run.run_id, unsent=UnsentMetrics(str(file)))
    assert resumed.flush() == 0
    resumed.close()
    assert values(run, "loss") == [(1, 1.0)]
    killed._closed = True  # ends the thread of the test


def test_the_file_is_rewritten_only_now_and_then(tmp_path):
    now_s = [0.0]
    unsent = UnsentMetrics(str(tmp_path / "unsent.jsonl"), clock=lambda: now_s[0])
    metrics = [Metric("loss", 1.0, 1000, 1)]
    unsent.keep_now_and_then(metrics)
    unsent.keep_now_and_then(metrics * 2)
    assert len(unsent.restore()) == 1
    now_s[0] = 60.0
    unsent.keep_now_and_then(metrics * 2)
    assert len(unsent.restore()) == 2
    unsent.clear()
    assert unsent.restore() == []


def test_a_damaged_or_unwritable_file_does_not_end_the_training(run, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    file = tmp_path / "unsent.jsonl"
    for content in (b'["loss", 1.0, 1000', b'{"loss": 1}\n', b"\xff\xfe", b'["a", "b", 1, 2]'):
        file.write_bytes(content)
        sink = MetricSink(run.uri, run.run_id, unsent=UnsentMetrics(str(file)))
        sink.log({"loss": 2.0}, 2)
        assert sink.flush() == 0
        sink.close()
    assert sum("is damaged" in message for message in caplog.messages) == 4
    assert values(run, "loss") == [(2, 2.0)] * len(values(run, "loss"))

    nowhere = UnsentMetrics(str(tmp_path / "blocked" / "unsent.jsonl"))
    lost = MetricSink(blocked_uri(tmp_path), run.run_id, unsent=nowhere)
    lost.log({"loss": 3.0}, 3)
    lost.close(timeout_s=0.3)
    assert any("cannot be kept" in message for message in caplog.messages)
    assert any("1 metrics were never delivered" in message for message in caplog.messages)


def test_nothing_is_written_while_the_tracker_takes_everything(run, tmp_path):
    file = tmp_path / "unsent.jsonl"
    sink = MetricSink(run.uri, run.run_id, unsent=UnsentMetrics(str(file)))
    sink.log({"loss": 1.0}, 1)
    sink.flush()
    sink.close()
    assert not file.exists()
    assert MlflowClient(run.uri).get_run(run.run_id).data.metrics["loss"] == 1.0
