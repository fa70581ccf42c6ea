"""Searchers propose what the ledger does not have yet, and Optuna learns from what it has."""

import math

import optuna
import pytest

from pipeline.sweep.proposals import proposals, trial_count
from pipeline.sweep.search_space import is_active
from tests.pipeline.sweep.sweep_config import BATCH, KIND, LR, finished, sweep_config

SPACE = {
    LR: {"kind": "log_uniform", "low": 1e-5, "high": 1.0},
    BATCH: {"kind": "choice", "values": [4, 8]},
    KIND: {"kind": "choice", "values": ["cosine", "multistep"]},
    "train.schedule.gamma": {"kind": "uniform", "low": 0.1, "high": 0.5, "when": {KIND: "cosine"}},
}


def optuna_config(**sweep):
    return sweep_config(SPACE, {"searcher": "optuna", **sweep})


def run(searcher, numbers, measure, records=()):
    """Let a searcher propose trials, each of which is measured at once."""
    records = list(records)
    for number in numbers:
        values = searcher.propose(number)
        records.append(finished(number, measure(values), values=values))
        searcher.observe(records[-1])
    return records


def closeness(values):
    """Best at a rate of 0.01; the same for all other keys."""
    return -abs(math.log10(values[LR]) + 2)


@pytest.mark.parametrize(
    ("sweep", "count"),
    [
        ({}, 8),
        ({"trials": 3}, 3),
        ({"searcher": "grid"}, 6),
        ({"searcher": "grid", "trials": 2}, 2),
        ({"searcher": "grid", "trials": 99}, 6),
    ],
)
def test_a_grid_has_its_points_and_other_searches_the_given_number(sweep, count):
    space = {
        BATCH: {"kind": "choice", "values": [4, 8]},
        "seed": {"kind": "int", "low": 1, "high": 3},
    }
    assert trial_count(sweep_config(space, sweep)) == count


def test_optuna_finds_a_better_rate_than_its_random_start():
    records = run(proposals(optuna_config(), ()), range(30), closeness)
    scores = [closeness(record.values) for record in records]
    assert max(scores[5:]) > max(scores[:5])
    assert sum(scores[20:]) / 10 > sum(scores[:5]) / 5


def test_optuna_keeps_what_it_has_learned_when_the_sweep_is_resumed():
    config = optuna_config()
    earlier = run(proposals(config, ()), range(20), closeness)
    later = run(proposals(config, earlier), range(20, 30), closeness)[20:]
    first = sum(closeness(record.values) for record in earlier[:5]) / 5
    assert sum(closeness(record.values) for record in later) / 10 > first


def test_optuna_proposes_only_keys_that_apply():
    config = optuna_config()
    for record in run(proposals(config, ()), range(12), closeness):
        for key in SPACE:
            assert (key in record.values) == is_active(config.sweep.space, key, record.values)


def test_optuna_takes_running_failed_and_stopped_trials():
    config = optuna_config()
    values = [proposals(config, ()).propose(number) for number in range(4)]
    records = [
        finished(0, 0.1, values=values[0]),
        finished(1, None, "failed", values=values[1]),
        finished(2, 0.3, "stopped", values=values[2]),
        finished(3, None, "running", values=values[3]),
    ]
    searcher = proposals(config, records)
    states = [trial.state for trial in searcher._study.trials]
    expected = optuna.trial.TrialState
    assert states == [expected.COMPLETE, expected.FAIL, expected.PRUNED, expected.RUNNING]
    # The running one goes on with its values, and ends like any other.
    searcher.observe(finished(3, 0.2, values=values[3]))
    assert searcher._study.trials[3].value == 0.2
    assert searcher._study.trials[3].params[LR] == pytest.approx(values[3][LR])


def test_optuna_weighs_two_metrics():
    config = optuna_config(second_metric="seconds", second_mode="min", scheduler="none")
    searcher = proposals(config, ())
    for number in range(8):
        values = searcher.propose(number)
        searcher.observe(finished(number, values[LR], values=values, seconds=10.0 * values[BATCH]))
    assert {tuple(t.values) for t in searcher._study.best_trials} <= {
        (t.params[LR], 40.0 + 40.0 * t.params[BATCH]) for t in searcher._study.trials
    }
