"""Sampled values stay in the search space, and conditions decide which keys apply."""

import pytest

from pipeline.config import RunConfig
from pipeline.sweep.search_space import format_values, grid_points, sample, with_values
from tests.pipeline.sweep.sweep_config import KIND, LR, sweep_config


def draw(dimension, count=300):
    space = sweep_config({"k": dimension}).sweep.space
    return [sample(space, 0, number)["k"] for number in range(count)]


@pytest.mark.parametrize(
    ("dimension", "options"),
    [
        ({"kind": "choice", "values": [1, "a", None]}, {1, "a", None}),
        ({"kind": "int", "low": 2, "high": 4}, {2, 3, 4}),
        ({"kind": "int", "low": 2, "high": 11, "q": 4}, {2, 6, 10}),
        ({"kind": "log_int", "low": 1, "high": 4}, {1, 2, 3, 4}),
        ({"kind": "uniform", "low": 0.1, "high": 0.3, "q": 0.1}, {0.1, 0.2, 0.3}),
    ],
)
def test_each_of_finitely_many_values_is_drawn_and_no_other(dimension, options):
    assert set(draw(dimension)) == options


def test_a_uniform_stays_within_its_bounds():
    values = draw({"kind": "uniform", "low": 0.5, "high": 0.75})
    assert all(0.5 <= value <= 0.75 for value in values)
    assert len(set(values)) == 300


@pytest.mark.parametrize("kind", ["log_uniform", "log_int"])
def test_logarithmic_kinds_draw_small_and_large_magnitudes_equally(kind):
    values = draw({"kind": kind, "low": 1, "high": 10_000})
    below = sum(value < 100 for value in values)
    # Half of 300, within five standard deviations (8.7).
    assert 106 < below < 194


def test_a_trial_depends_on_its_number_and_the_seed_alone():
    space = sweep_config({LR: {"kind": "log_uniform", "low": 1e-4, "high": 1}}).sweep.space
    assert sample(space, 1, 5) == sample(space, 1, 5)
    assert sample(space, 1, 5) != sample(space, 1, 6)
    assert sample(space, 1, 5) != sample(space, 2, 5)


CONDITIONAL = {
    KIND: {"kind": "choice", "values": ["cosine", "multistep"]},
    "train.schedule.gamma": {"kind": "grid", "values": [0.1, 0.3], "when": {KIND: "multistep"}},
    "seed": {"kind": "grid", "values": [1, 2, 3]},
}


def test_a_conditional_key_is_sampled_only_if_its_condition_is_met():
    space = sweep_config(CONDITIONAL).sweep.space
    trials = [sample(space, 0, number) for number in range(50)]
    assert {trial[KIND] for trial in trials} == {"cosine", "multistep"}
    for trial in trials:
        assert ("train.schedule.gamma" in trial) == (trial[KIND] == "multistep")


def test_a_grid_has_every_combination_once():
    points = grid_points(sweep_config(CONDITIONAL).sweep.space)
    # Three seeds of cosine, and three of multistep with each gamma.
    assert len(points) == 3 + 2 * 3
    assert len({str(point) for point in points}) == len(points)


def test_grid_keys_of_a_random_search_take_their_values_equally_often():
    space = {
        "seed": {"kind": "grid", "values": [1, 2, 3]},
        LR: {"kind": "log_uniform", "low": 1e-4, "high": 1},
    }
    trials = [sample(sweep_config(space).sweep.space, 0, number) for number in range(9)]
    assert sorted(trial["seed"] for trial in trials) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({trial[LR] for trial in trials}) == 9


def test_a_value_changes_its_nested_key_and_nothing_else():
    config = RunConfig()
    changed = with_values(config, {"model.rpn.nms_iou": 0.5})
    assert changed.model.rpn.nms_iou == 0.5
    restored = with_values(changed, {"model.rpn.nms_iou": config.model.rpn.nms_iou})
    assert restored == config


def test_a_mapping_is_merged_into_what_the_config_states():
    config = sweep_config({}, train={"schedule": {"steps": 160, "warmup_steps": 10}})
    changed = with_values(config, {"train.schedule": {"kind": "cosine", "warmup_steps": 5}})
    schedule = changed.train.schedule
    assert (schedule.kind, schedule.steps, schedule.warmup_steps) == ("cosine", 160, 5)


def test_a_mapping_replaces_null():
    changed = with_values(RunConfig(), {"data.scale_jitter": {"side": 96}})
    assert changed.data.scale_jitter.side == 96


def test_keys_are_shown_as_short_as_they_can_be_told_apart():
    values = {"train.optimizer.lr": 0.00123456, "a.kind": {"x": [1, 2]}, "b.kind": True}
    assert format_values(values) == "lr=0.001235  a.kind=x:[1,2]  b.kind=true"
