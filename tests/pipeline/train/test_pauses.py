"""Pauses are due at the right steps, and a split without the best metric is no error."""

import math
from types import SimpleNamespace

import pytest
import torch

from pipeline.config import RunConfig
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.pauses import TrainingPauses
from pipeline.train.training_validation import TrainingValidation
from pipeline.train.worker_place import WorkerPlace


def make_pauses(output, val_shards="shards", clock=lambda: 0.0, rank=0, **train):
    config = RunConfig.model_validate(
        {"output": str(output), "train": {"schedule": {"steps": 100}, **train}}
    )
    state = SimpleNamespace(trained_s=0.0, start_step=0)
    place = WorkerPlace(rank, 2, torch.device("cpu"))
    recorder = MetricRecorder(None)
    validation = None
    if val_shards is not None:
        validation = TrainingValidation(config, place, state, val_shards, recorder)
    return TrainingPauses(config, place, state, validation, recorder, lambda: 0, clock)


def due(pauses, steps):
    return [step for step in steps if pauses.due_after(step)]


def test_training_pauses_to_save_to_validate_and_at_the_end(tmp_path):
    settings = {"checkpoint_every": 30, "validate_every": 40}
    assert due(make_pauses(tmp_path, **settings), range(1, 101)) == [30, 40, 60, 80, 90, 100]
    without_shards = make_pauses(tmp_path, val_shards=None, **settings)
    assert due(without_shards, range(1, 101)) == [30, 60, 90, 100]


@pytest.mark.parametrize("checkpoint_every", [1000, 10, 1])
def test_the_end_of_the_time_is_noticed_also_where_a_checkpoint_is_due(tmp_path, checkpoint_every):
    seconds = iter([0.0, 10.0, 3601.0])
    pauses = make_pauses(
        tmp_path,
        clock=lambda: next(seconds),
        max_hours=1,
        log_every=10,
        checkpoint_every=checkpoint_every,
    )
    pauses.due_after(10)
    assert pauses.due_after(20)
    # It is the last step: with validation and checkpoint.
    assert pauses._should_validate(20) and pauses._should_checkpoint(20)


def test_a_split_that_does_not_measure_the_best_metric_is_said_and_no_error(tmp_path, caplog):
    pauses = make_pauses(tmp_path, best_metric="segm/AP")
    assert math.isnan(pauses.validation._best_value({"bbox/AP": 0.5}))
    assert "segm/AP is not measured on the validation shards" in caplog.text
    assert pauses.validation._best_value({"segm/AP": 0.5}) == 0.5


def test_only_pauses_that_just_save_leave_the_upload_for_later():
    # Rank 0 would look for an earlier validation there.
    pauses = make_pauses("s3://bucket/run", rank=1, checkpoint_every=20, validate_every=40)
    assert [step for step in range(1, 101) if pauses._uploads_later(step)] == [20, 60]


def test_a_local_checkpoint_is_never_left_for_later(tmp_path):
    pauses = make_pauses(tmp_path, checkpoint_every=20)
    assert not any(pauses._uploads_later(step) for step in range(1, 101))
