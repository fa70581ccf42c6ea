"""Metrics arrive, late if they must, and never stop the job that logs them."""

import logging

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_run import open_run


@pytest.fixture
def run(run_config):
    with open_run(run_config, "test") as opened:
        yield opened


def values(run, key):
    history = MlflowClient(run.uri).get_metric_history(run.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def test_metrics_and_pictures_arrive_with_their_steps(run):
    sink = MetricSink(run.uri, run.run_id)
    for step in range(5):
        sink.log({"loss/mask": step / 2, "lr": 0.1}, step)
    sink.log_picture("val/0001", np.full((8, 9, 3), 200, np.uint8), step=4)
    assert sink.flush() == 0
    sink.close()
    assert values(run, "loss/mask") == [(step, step / 2) for step in range(5)]
    [picture] = MlflowClient(run.uri).list_artifacts(run.run_id, "pictures")
    assert picture.path == "pictures/val-0001-000004.png"
    assert (sink.delivered, sink.dropped) == (11, 0)


def test_what_a_dead_tracker_missed_arrives_when_it_is_back(run, tmp_path, caplog):
    """The tracker's file is moved away and back: log never raises, one line says what happened."""
    database = tmp_path / "gone" / "mlflow.db"
    away = f"sqlite:///{database}"
    blocker = database.parent
    blocker.write_text("a file where the store's folder would be")
    caplog.set_level(logging.WARNING)
    sink = MetricSink(away, run.run_id, retry_s=0.05)
    sink.log({"loss": 1.0}, 1)
    assert sink.flush(timeout_s=0.5) == 1
    sink.log({"loss": 2.0}, 2)
    assert sink.failed_attempts > 1
    assert sum("does not take metrics" in line.message for line in caplog.records) == 1

    sink.uri = run.uri  # the tracker answers again
    assert sink.flush() == 0
    sink.close()
    assert values(run, "loss") == [(1, 1.0), (2, 2.0)]
    assert any("is back" in line.message for line in caplog.records)


def test_a_metric_that_mlflow_refuses_does_not_hold_up_the_others(run):
    sink = MetricSink(run.uri, run.run_id)
    sink.log({"no such; name!": 1.0}, 1)
    assert sink.flush() == 0
    sink.log({"loss": 2.0}, 2)
    assert sink.flush() == 0
    sink.close()
    assert (sink.dropped, values(run, "loss")) == (1, [(2, 2.0)])


def test_memory_is_bounded_while_the_tracker_is_away(run, tmp_path):
    (tmp_path / "gone").write_text("")
    sink = MetricSink(f"sqlite:///{tmp_path}/gone/mlflow.db", run.run_id, capacity=10)
    for step in range(25):
        sink.log({"loss": 0.0}, step)
    assert sink.flush(timeout_s=0) == 10
    assert sink.dropped == 15
    sink.close(timeout_s=0)


def test_not_a_number_is_recorded_as_such(run):
    sink = MetricSink(run.uri, run.run_id)
    sink.log({"loss": float("nan")}, 1)
    assert sink.flush() == 0
    sink.close()
    [(step, value)] = values(run, "loss")
    assert step == 1
    assert np.isnan(value)
