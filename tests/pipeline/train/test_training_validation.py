"""Training goes on while metrics are computed, and decides the same at the same steps."""

import json
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

from model.weights import load_network
from pipeline.config import RunConfig
from pipeline.evaluate.metrics import Metrics
from pipeline.train import pauses as training_pauses
from pipeline.train import training_validation
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.pauses import TrainingPauses
from pipeline.train.training_validation import TrainingValidation
from pipeline.train.worker_place import WorkerPlace


@pytest.fixture
def started(monkeypatch):
    """The metrics that a validation has asked for, in order; the test computes them."""
    measurements = []

    def start_measuring(predictions, is_needed_now):
        metrics = Future()
        measurements.append(SimpleNamespace(metrics=metrics, is_needed_now=is_needed_now))
        if is_needed_now:
            metrics.set_result(Metrics({"segm/AP": 0.25}))
        return metrics

    monkeypatch.setattr(training_validation, "start_measuring", start_measuring)
    return measurements


@pytest.fixture
def reports(monkeypatch):
    """What a training has reported to Ray: step, value of the metric, checkpoint."""
    reported = []

    def report(metrics, checkpoint, checkpoint_dir_name, **_options):
        assert metrics["images_seen"] == metrics["step"] * RunConfig().train.global_batch
        assert checkpoint_dir_name == checkpoint.rpartition("/")[2]
        reported.append((metrics["step"], metrics["val/segm/AP"], checkpoint))

    monkeypatch.setattr(training_pauses.ray.train, "report", report)
    monkeypatch.setattr(training_pauses, "reported_checkpoint", lambda url: url)
    return reported


@pytest.fixture
def resume(tmp_path, shapes_shards, tiny_checkpoint):
    """Return a function that starts the pauses of a training after some steps."""

    def pauses(start_step=0, is_trial=False, ended_at=None, **train):
        train = {"schedule": {"steps": 100}, "validate_every": 10, **train}
        config = RunConfig.model_validate({"output": str(tmp_path), "train": train})
        detector = load_network(tiny_checkpoint)
        state = SimpleNamespace(inference_detector=detector, start_step=start_step, trained_s=0.0)
        place = WorkerPlace(0, 1, torch.device("cpu"))
        recorder = MetricRecorder(None)
        validation = TrainingValidation(config, place, state, shapes_shards, recorder, is_trial)
        resumed = TrainingPauses(config, place, state, validation, recorder, lambda: 0)
        resumed.resume(start_step, ended_at)
        return resumed

    return pauses


def validated(tmp_path):
    file = tmp_path / "train/best.json"
    return [v["step"] for v in json.loads(file.read_text())["validations"]] if file.exists() else []


def finish(measurement, value):
    measurement.metrics.set_result(Metrics({"segm/AP": value}))


def test_training_goes_on_and_the_metrics_are_recorded_when_they_are_there(
    started, resume, tmp_path
):
    pauses = resume()
    pauses.validation.validate(10, is_last=False)
    pauses.recorder.record({"train/loss": 1.0}, 11)
    assert not pauses.ends_after(11)
    assert "val/segm/AP" not in pauses.recorder.latest
    finish(started[0], 0.5)
    assert not pauses.ends_after(12)
    assert pauses.recorder.latest["val/segm/AP"] == 0.5
    assert pauses.recorder.step == 11
    assert json.loads((tmp_path / "train/best.json").read_text())["checkpoint"] == "step_00000010"
    assert pauses.validation.best == (10, {"val/segm/AP": 0.5})


def test_metrics_are_waited_for_before_the_next_validation(started, resume, tmp_path):
    pauses = resume()
    pauses.validation.validate(10, is_last=False)
    finish(started[0], 0.5)
    pauses.validation.validate(20, is_last=False)
    assert validated(tmp_path) == [10]
    pauses.validation._unfinished = None
    pauses.validation.validate(100, is_last=True)
    assert validated(tmp_path) == [10, 100]


@pytest.mark.parametrize(
    ("settings", "waits"),
    [({}, [False] * 3), ({"patience": 2}, [False, False, True]), ({"is_trial": True}, [True] * 3)],
)
def test_metrics_are_waited_for_at_once_where_something_depends_on_them(
    started, resume, settings, waits
):
    pauses = resume(**settings)
    for step, value in ((10, 0.5), (20, 0.4), (30, 0.3)):
        pauses.validation.validate(step, is_last=False)
        if not started[-1].is_needed_now:
            finish(started[-1], value)
    assert [each.is_needed_now for each in started] == waits
    reason = pauses.validation.reason_to_stop()
    assert (reason is not None) == ("patience" in settings)


def test_a_validation_whose_metrics_were_lost_is_repeated(started, resume, tmp_path):
    resume().validation.validate(10, is_last=False)  # and the process ends
    resumed = resume(10)
    assert len(started) == 2
    finish(started[1], 0.5)
    resumed.ends_after(11)
    assert validated(tmp_path) == [10]
    resume(10)
    resume(15)  # no validation is due after 15 steps
    resume(10, is_trial=True)
    assert len(started) == 2


def test_a_trial_that_was_killed_around_a_validation_reports_it(started, resume, reports, tmp_path):
    checkpoint = str(tmp_path / "train" / "step_{:08d}").format
    resume(10, is_trial=True)  # killed after its checkpoint, before it was validated
    resume(10, is_trial=True)  # validated: such as the copy of another trial's checkpoint
    resume(15, is_trial=True)
    assert reports == [(10, 0.25, checkpoint(10))]
    resume(100, is_trial=True)
    assert reports[1:] == [(100, 0.25, checkpoint(100))]
    resume(100, is_trial=True)  # killed before its last report, which is its result
    assert reports[2:] == [(100, 0.25, checkpoint(100))]
    assert validated(tmp_path) == [10, 100] and len(started) == 2
    assert len(reports) == 3
    resume(100)  # a training of its own has nobody to report to
    assert len(reports) == 3


def test_the_last_validation_is_repeated_and_waited_for(started, resume, tmp_path):
    resumed = resume(100)
    assert validated(tmp_path) == [100]
    assert resumed.recorder.latest["val/segm/AP"] == 0.25
    assert resumed.stopped is None


def test_a_training_that_was_killed_when_it_decided_to_end_decides_it_again(started, resume):
    pauses = resume(patience=1)
    for step in (10, 20):
        pauses.validation.validate(step, is_last=False)
        if not started[-1].is_needed_now:
            finish(started[-1], 0.5)
    reason = pauses.validation.reason_to_stop()
    assert reason is not None
    assert resume(20, patience=1).stopped == reason
    # It decides only after a validation, and one that has ended goes on if its settings changed.
    assert resume(25, patience=1).stopped is None
    assert resume(20, patience=1, ended_at=20).stopped is None
    assert resume(20, patience=3).stopped is None
