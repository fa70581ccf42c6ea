"""A training starts, continues or refuses to, as train.resume and its weights say."""

import logging
from dataclasses import replace

import pytest

from pipeline.config import RunConfig
from pipeline.train.failures import TrainingError
from pipeline.train.run_record import RunMismatchError, RunRecord, recipe_settings
from pipeline.train.start_checks import check_start

CHECKPOINT = "out/train/step_00000040"


def start(checkpoint=None, recorded_weights=None, **train):
    config = RunConfig.model_validate({"output": "out", "train": train})
    present = RunRecord("r", "u", "d", {}, recipe_settings(config))
    recorded = replace(present, recipe={**present.recipe, "train.weights": str(recorded_weights)})
    check_start(config, recorded if checkpoint else None, present, checkpoint)


def test_a_new_training_says_that_it_takes_only_the_weights_of_a_checkpoint(caplog):
    with caplog.at_level(logging.INFO):
        start(weights=CHECKPOINT)
    assert f"starting at step 0 with the weights of {CHECKPOINT}, and nothing else" in caplog.text


def test_a_continued_training_names_the_checkpoint(caplog):
    with caplog.at_level(logging.INFO):
        start(CHECKPOINT, resume="required")
    assert "continuing the training in out from step_00000040" in caplog.text


def test_other_weights_are_refused_where_they_would_not_be_read():
    start(CHECKPOINT, recorded_weights="a.pth", weights="a.pth")
    start(CHECKPOINT, recorded_weights="a.pth", weights=None)
    with pytest.raises(RunMismatchError, match=r"started with train.weights=a.pth, not b.pth"):
        start(CHECKPOINT, recorded_weights="a.pth", weights="b.pth")


def test_resume_required_fails_without_a_checkpoint_and_never_with_one():
    with pytest.raises(TrainingError, match="out has no checkpoint to continue from"):
        start(resume="required")
    start(resume="never")
    with pytest.raises(TrainingError, match="holds a training with checkpoint step_00000040"):
        start(CHECKPOINT, resume="never")
