"""Metrics are delivered, if necessary late, and never stop the job that logs them."""

import logging
import time

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.track.metric_sink import MetricSink


def values(run, key):
    history = MlflowClient(run.uri).get_metric_history(run.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def test_metrics_are_delivered_with_their_steps(run):
    sink = MetricSink(run.uri, run.run_id)
    for step in range(5):
        sink.log({"loss/mask": step / 2, "lr": 0.1}, step)
    assert sink.flush() == 0
    sink.close()
    assert values(run, "loss/mask") == [(step, step / 2) for step in range(5)]
    assert values(run, "lr") == [(step, 0.1) for step in range(5)]
    assert (sink.delivered, sink.dropped) == (10, 0)


def test_metrics_logged_while_the_tracker_is_down_are_delivered_when_it_is_back(
    run, tmp_path, caplog
):
    """The sink starts with an unusable store: log never raises, and one line reports it."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file in place of the store's folder")
    caplog.set_level(logging.WARNING)
    sink = MetricSink(f"sqlite:///{blocked}/mlflow.db", run.run_id, retry_s=0.05)
    sink.log({"loss": 1.0}, 1)
    assert sink.flush(timeout_s=0.5) == 1
    sink.log({"loss": 2.0}, 2)
    assert sink.failed_attempts > 1
    assert sum("does not accept metrics" in line.message for line in caplog.records) == 1

    sink.uri = run.uri  # the tracker is back
    assert sink.flush() == 0
    sink.close()
    assert values(run, "loss") == [(1, 1.0), (2, 2.0)]
    assert any("is available again" in line.message for line in caplog.records)


@pytest.fixture
def slow_log():
    """Every log line of the sink takes as long as on a busy machine."""

    def wait(_: logging.LogRecord) -> bool:
        time.sleep(0.2)
        return True

    logger = logging.getLogger("pipeline.track.metric_sink")
    logger.addFilter(wait)
    yield
    logger.removeFilter(wait)


@pytest.mark.usefixtures("slow_log")
def test_everything_is_counted_and_logged_when_flush_returns(run, tmp_path, caplog):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file in place of the store's folder")
    sink = MetricSink(f"sqlite:///{blocked}/mlflow.db", run.run_id, retry_s=0.05)
    sink.log({"loss": 1.0}, 1)
    assert sink.flush(timeout_s=1) == 1
    sink.uri = run.uri  # the tracker is back
    assert sink.flush() == 0
    assert (sink.delivered, sink.failed_attempts) == (1, 0)
    assert "is available again" in caplog.text
    sink.log({"no such; name!": 1.0}, 2)
    assert sink.flush() == 0
    assert sink.dropped == 1
    assert "MLflow refused 1 metrics" in caplog.text
    sink.close()


def test_a_metric_that_mlflow_refuses_does_not_block_the_others(run):
    sink = MetricSink(run.uri, run.run_id)
    sink.log({"no such; name!": 1.0}, 1)
    assert sink.flush() == 0
    sink.log({"loss": 2.0}, 2)
    assert sink.flush() == 0
    sink.close()
    assert (sink.dropped, values(run, "loss")) == (1, [(2, 2.0)])


def test_memory_is_bounded_while_the_tracker_is_down(run, tmp_path):
    (tmp_path / "blocked").write_text("")
    sink = MetricSink(f"sqlite:///{tmp_path}/blocked/mlflow.db", run.run_id, capacity=10)
    for step in range(25):
        sink.log({"loss": 0.0}, step)
    assert sink.flush(timeout_s=0) == 10
    assert sink.dropped == 15
    sink.close(timeout_s=0)


def test_nan_is_recorded_as_nan(run):
    sink = MetricSink(run.uri, run.run_id)
    sink.log({"loss": float("nan")}, 1)
    assert sink.flush() == 0
    sink.close()
    [(step, value)] = values(run, "loss")
    assert step == 1
    assert np.isnan(value)


def test_the_follow_up_comes_after_the_metrics_and_its_failure_stops_nothing(run, caplog):
    seen = []

    def follow_up(client):
        seen.append(client.get_run(run.run_id).data.metrics["loss"])
        if len(seen) == 1:
            raise OSError("the tracker is too old for this")

    sink = MetricSink(run.uri, run.run_id, follow_up=follow_up)
    sink.log({"loss": 2.0}, 1)
    sink.request_follow_up()
    assert sink.flush() == 0
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    sink.log({"loss": 1.0}, 2)
    sink.request_follow_up()
    sink.close()  # waits for it
    assert seen == [2.0, 1.0]
    assert sum("too old for this" in message for message in caplog.messages) == 1
