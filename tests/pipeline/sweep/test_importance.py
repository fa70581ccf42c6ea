"""Importance follows the key that the metric depends on, and says how it was measured."""

import pytest

from pipeline.sweep.importance import measure_importance, metric_at_same_images
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.search_space import sample
from tests.pipeline.sweep.sweep_config import BATCH, KIND, LR, finished, sweep_config

SWEEP = sweep_config(
    {
        LR: {"kind": "log_uniform", "low": 1e-5, "high": 1.0},
        BATCH: {"kind": "choice", "values": [4, 8, 16]},
        KIND: {"kind": "choice", "values": ["cosine", "multistep"]},
    }
).sweep


def trials(count, metric):
    values = [sample(SWEEP.space, 0, number) for number in range(count)]
    return [finished(number, metric(each), values=each) for number, each in enumerate(values)]


@pytest.mark.parametrize(("count", "method"), [(9, "Spearman"), (30, "fANOVA")])
@pytest.mark.parametrize("key", [LR, KIND])
def test_the_key_that_decides_is_the_most_important(count, method, key):
    measured = measure_importance(
        SWEEP, trials(count, lambda v: v[LR] if key == LR else float(v[KIND] == "cosine"))
    )
    assert next(iter(measured.shares)) == key
    assert measured.shares[key] > 0.8
    assert method in measured.method


def test_too_few_or_equal_trials_say_nothing():
    assert measure_importance(SWEEP, trials(2, lambda v: v[LR])).shares == {}
    assert measure_importance(SWEEP, trials(12, lambda v: 0.5)).shares == {}


def test_trials_are_compared_at_the_same_number_of_images():
    whole = TrialRecord("0000", {}, "finished", history=((10, 0.1), (20, 0.3), (40, 0.5)))
    stopped = TrialRecord("0001", {}, "stopped", history=((15, 0.2),))
    failed = TrialRecord("0002", {}, "failed", history=((5, 0.9),))
    images, values = metric_at_same_images([whole, stopped, failed])
    assert images == 15
    assert [value for _, value in values] == pytest.approx([0.2, 0.2])
