"""Sampled values stay in the search space, and wrong keys and values are refused."""

import pytest

from model.config.settings import ConfigError
from pipeline.config import RunConfig
from pipeline.sweep.search_space import check_space, distributions, with_values
from tests.pipeline.sweep.sweep_config import LR, sweep_config


def draw(dimension, count=300):
    config = sweep_config({"k": dimension})
    domain = distributions(config.sweep.space)["k"]
    return [domain.sample() for _ in range(count)]


def test_a_choice_draws_each_of_its_options():
    assert set(draw({"kind": "choice", "values": [1, "a", None]})) == {1, "a", None}


def test_an_int_reaches_both_bounds():
    assert set(draw({"kind": "int", "low": 2, "high": 4})) == {2, 3, 4}


def test_a_uniform_stays_within_its_bounds():
    values = draw({"kind": "uniform", "low": 0.5, "high": 0.75})
    assert all(0.5 <= value <= 0.75 for value in values)


def test_a_log_uniform_draws_small_and_large_magnitudes_equally():
    values = draw({"kind": "log_uniform", "low": 1e-4, "high": 1.0})
    below = sum(value < 1e-2 for value in values)
    # Half of 300, within five standard deviations (8.7).
    assert 106 < below < 194


def test_a_value_changes_its_nested_key_and_nothing_else():
    config = RunConfig()
    changed = with_values(config, {"model.rpn.nms_iou": 0.5})
    assert changed.model.rpn.nms_iou == 0.5
    restored = with_values(changed, {"model.rpn.nms_iou": config.model.rpn.nms_iou})
    assert restored == config


def test_every_invalid_key_and_value_of_the_space_is_reported_at_once():
    config = sweep_config(
        {
            "train.optimizer.larning_rate": {"kind": "uniform", "low": 0.1, "high": 0.2},
            "train.workers": {"kind": "int", "low": 1, "high": 2},
            "output": {"kind": "choice", "values": ["/a", "/b"]},
            "train.global_batch": {"kind": "choice", "values": [16, -1]},
            LR: {"kind": "uniform", "low": 0.1, "high": 0.2},
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_space(config)
    text = str(caught.value)
    for part in ("larning_rate", "sweep.space.train.workers", "sweep.space.output", "-1"):
        assert part in text
    assert f"sweep.space.{LR}" not in text


def test_an_empty_space_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        check_space(sweep_config({}))
