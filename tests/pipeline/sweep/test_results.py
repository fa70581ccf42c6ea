"""The best trial is selected among those that ran to their end."""

import math

import pytest

from pipeline.sweep.results import TrialSummary, best_trial

M = "val/segm/AP"


def trial(trial_id, value, stopped=False, error=None):
    metrics = {} if value is None else {M: value}
    return TrialSummary(trial_id, {}, metrics, 10, stopped, error)


@pytest.mark.parametrize(("mode", "best"), [("max", "b"), ("min", "a")])
def test_the_mode_decides_which_trial_is_best(mode, best):
    assert best_trial([trial("a", 0.1), trial("b", 0.3), trial("c", 0.2)], M, mode).trial_id == best


def test_a_completed_trial_beats_one_that_was_stopped():
    trials = [trial("stopped", 0.9, stopped=True), trial("completed", 0.1)]
    assert best_trial(trials, M, "max").trial_id == "completed"


def test_stopped_trials_compete_if_none_completed():
    trials = [trial("a", 0.1, stopped=True), trial("b", 0.2, stopped=True)]
    assert best_trial(trials, M, "max").trial_id == "b"


def test_failed_trials_and_those_without_a_metric_never_win():
    trials = [
        trial("failed", 0.9, error="boom"),
        trial("nan", math.nan),
        trial("unmeasured", None),
        trial("poor", -1.0),
    ]
    assert best_trial(trials, M, "max").trial_id == "poor"
    assert best_trial(trials[:3], M, "max") is None
