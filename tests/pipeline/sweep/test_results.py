"""The best trial is selected among those that ran to their end."""

import math

import pytest

from pipeline.sweep.results import best_tradeoffs, best_trial
from tests.pipeline.sweep.sweep_config import finished, sweep_config

SWEEP = sweep_config({}).sweep


@pytest.mark.parametrize(("mode", "best"), [("max", "0001"), ("min", "0000")])
def test_the_mode_decides_which_trial_is_best(mode, best):
    sweep = sweep_config({}, {"mode": mode}).sweep
    trials = [finished(0, 0.1), finished(1, 0.3), finished(2, 0.2)]
    assert best_trial(trials, sweep).trial_id == best


def test_a_completed_trial_beats_one_that_was_stopped():
    trials = [finished(0, 0.9, "stopped"), finished(1, 0.1)]
    assert best_trial(trials, SWEEP).trial_id == "0001"


def test_stopped_trials_compete_if_none_completed():
    trials = [finished(0, 0.1, "stopped"), finished(1, 0.2, "stopped")]
    assert best_trial(trials, SWEEP).trial_id == "0001"


def test_failed_trials_and_those_without_a_metric_never_win():
    trials = [
        finished(0, 0.9, "failed", error="boom"),
        finished(1, math.nan),
        finished(2, None),
        finished(3, -1.0),
    ]
    assert best_trial(trials, SWEEP).trial_id == "0003"
    assert best_trial(trials[:3], SWEEP) is None


def test_a_tradeoff_is_a_trial_than_which_none_is_better_in_both_metrics():
    sweep = sweep_config({}, {"second_metric": "seconds", "second_mode": "min"}).sweep
    slow_and_good, fast, dominated = (
        finished(0, 0.9, seconds=100.0),
        finished(1, 0.5, seconds=10.0),
        finished(2, 0.5, seconds=20.0),
    )
    stopped = finished(3, 0.99, "stopped", seconds=1.0)
    trials = [fast, dominated, slow_and_good, stopped]
    assert best_tradeoffs(trials, sweep) == [slow_and_good, fast]
    assert best_tradeoffs(trials, SWEEP) == []
