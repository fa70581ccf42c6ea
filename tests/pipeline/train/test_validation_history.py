"""The best checkpoint, patience, and what a resumed training knows of earlier validations."""

import json
import logging
import math

import pytest

from model.config.settings import ConfigError
from pipeline.config import RunConfig
from pipeline.train.validation_history import (
    Validation,
    ValidationHistory,
    best_metric,
    read_history,
    write_history,
)

FASTER = {"model": {"mask": None}}


def history(*values, metric="segm/AP"):
    whole = ValidationHistory(metric)
    for step, value in enumerate(values, start=1):
        whole = whole.add(step * 10, value)
    return whole


def config(output="unused", **train):
    return RunConfig.model_validate({"output": str(output), "train": train})


def test_the_best_validation_is_the_highest_and_the_last_of_equals():
    whole = history(0.1, 0.4, 0.3, 0.4)
    assert whole.best == Validation(40, 0.4)
    assert whole.since_improved == 2


def test_of_losses_the_lowest_is_the_best():
    assert history(0.5, 0.2, 0.9, metric="loss").best == Validation(20, 0.2)


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_a_validation_that_measured_nothing_is_no_best(value):
    assert history(value, value).best is None
    assert history(value, 0.0, value).best == Validation(20, 0.0)


def test_training_stops_after_as_many_validations_without_a_better_one_as_patience_says():
    assert history(0.1, 0.4, 0.3).reason_to_stop(patience=2) is None
    assert history(0.1, 0.4, 0.3, 0.4).reason_to_stop(patience=2) == (
        "segm/AP has not improved on 0.4000 in 2 validations"
    )
    assert history(0.4, 0.3, 0.2, 0.1).reason_to_stop(patience=0) is None
    assert history().reason_to_stop(patience=1) is None


def test_a_resumed_training_forgets_the_validations_after_its_checkpoint(tmp_path):
    write_history(config(tmp_path), history(0.1, 0.4, 0.3))
    assert read_history(config(tmp_path), until_step=30) == history(0.1, 0.4, 0.3)
    assert read_history(config(tmp_path), until_step=15) == history(0.1)
    assert history(0.1, 0.4).add(20, 0.2) == history(0.1, 0.2)


def test_a_resumed_training_knows_which_steps_were_validated_and_what_was_measured(tmp_path):
    whole = ValidationHistory("segm/AP").add(10, 0.5, {"val/segm/AP": 0.5, "val/loss": 2.0})
    write_history(config(tmp_path), whole.add(20, math.nan))
    for until, validated in ((20, [10, 20]), (19, [10]), (9, [])):
        resumed = read_history(config(tmp_path), until)
        assert [step for step in (10, 20, 30) if resumed.has(step)] == validated
    assert read_history(config(tmp_path), 20).best.metrics["val/loss"] == 2.0


def test_a_history_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/best.json").write_text(
        '{"checkpoint": null, "metric": "segm/AP", "validations": [{"step": 10, "value": 0.1}]}'
    )
    assert read_history(config(tmp_path), until_step=30) == history(0.1)


def test_only_the_validation_that_completes_the_patience_may_end_a_training():
    assert [history(*values).may_stop_next(2) for values in ([], [0.4], [0.4, 0.3])] == [
        False,
        False,
        True,
    ]
    assert not history(0.4, 0.3, 0.2).may_stop_next(0)


def test_the_file_names_the_best_checkpoint_unless_the_last_one_is_to_be_used(tmp_path):
    for final, named in (("best", "step_00000020"), ("last", None)):
        write_history(config(tmp_path, final_checkpoint=final), history(0.1, 0.4, 0.3))
        content = json.loads((tmp_path / "train/best.json").read_text())
        assert content["checkpoint"] == named


@pytest.mark.parametrize("text", ["{", "[]", '{"metric": "segm/AP", "validations": [{"a": 1}]}'])
def test_a_damaged_history_starts_anew_with_a_warning(tmp_path, caplog, text):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/best.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert read_history(config(tmp_path), until_step=30) == history()
    assert "best.json" in caplog.text


def test_the_metric_is_that_of_the_champion_or_the_first_that_the_detector_has():
    assert best_metric(config()) == "segm/AP"
    assert best_metric(RunConfig.model_validate(FASTER)) == "bbox/AP"
    assert best_metric(config(best_metric="val/bbox/AP50")) == "bbox/AP50"
    assert best_metric(config(best_metric="loss", validation_loss=True)) == "loss"


@pytest.mark.parametrize(
    ("metric", "reason"), [("loss", "needs train.validation_loss=true"), ("AP", "use bbox/AP")]
)
def test_a_metric_that_is_not_measured_is_refused(metric, reason):
    with pytest.raises(ConfigError, match=reason):
        best_metric(config(best_metric=metric))
