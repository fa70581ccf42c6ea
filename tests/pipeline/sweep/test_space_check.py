"""A wrong key, value or combination is refused before anything starts, in one line each."""

import pytest

from model.config.settings import ConfigError
from pipeline.shards.manifest import read_manifest
from pipeline.sweep.space_check import check_space
from pipeline.sweep.sweep_check import check_trials
from tests.pipeline.sweep.sweep_config import BATCH, KIND, LR, sweep_config

RATES = {"kind": "log_uniform", "low": 0.1, "high": 0.2}


def problems(space, sweep=None, **tree):
    with pytest.raises(ConfigError) as caught:
        check_space(sweep_config(space, sweep, **tree))
    return caught.value.problems


def test_every_invalid_key_of_the_space_is_reported_at_once():
    lines = problems(
        {
            "train.workers": {"kind": "int", "low": 1, "high": 2},
            "train.validate_every": {"kind": "int", "low": 1, "high": 2},
            "data.rows_per_shard": {"kind": "int", "low": 1, "high": 2},
            "output": {"kind": "choice", "values": ["/a", "/b"]},
            "train.optimizer": {"kind": "choice", "values": [{"lr": 0.1}]},
            LR: RATES,
        }
    )
    assert len(lines) == 5
    refused = ["train.workers", "train.validate_every", "data.rows_per_shard", "output", LR]
    for line, key in zip(lines, refused, strict=True):
        assert line.startswith(f"sweep.space.{key}: ") and "\n" not in line


def test_every_invalid_value_is_reported_at_once():
    lines = problems(
        {
            "train.optimizer.momentun": RATES,
            BATCH: {"kind": "choice", "values": [16, -1]},
            "train.schedule": {"kind": "choice", "values": [{"kind": "cosine"}, {"kind": "step"}]},
        }
    )
    assert len(lines) == 3
    assert "did you mean" in lines[0]
    assert "-1 is invalid" in lines[1] and "16" not in lines[1]
    assert "'step'" in lines[2]


def test_a_combination_that_is_invalid_is_found():
    space = {
        BATCH: {"kind": "choice", "values": [6, 8]},
        "train.accumulate": {"kind": "choice", "values": [2, 4]},
    }
    [line] = problems(space)
    assert "global_batch=6  accumulate=4" in line


def test_a_value_that_is_valid_only_under_its_condition_is_accepted():
    milestones = {"kind": "grid", "values": [[8, 11]], "when": {"train.schedule.epochs": 12}}
    space = {
        "train.schedule.epochs": {"kind": "grid", "values": [12, None]},
        "train.schedule.milestones_epochs": milestones,
    }
    check_space(sweep_config(space, {"searcher": "grid"}))
    del milestones["when"]
    assert "milestones_epochs" in problems(space, {"searcher": "grid"})[0]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"train.schedule.power": 1}, "train.schedule.power is not a key of the space"),
        ({KIND: ["cosine", "linear"]}, "train.schedule.kind is never 'linear'"),
    ],
)
def test_a_condition_that_is_never_met_is_refused(condition, message):
    kinds = {"kind": "choice", "values": ["cosine", "multistep"]}
    assert message in problems({KIND: kinds, LR: {**RATES, "when": condition}})[0]


def test_conditions_in_a_circle_are_refused():
    space = {
        "seed": {"kind": "choice", "values": [1, 2], "when": {BATCH: 4}},
        BATCH: {"kind": "choice", "values": [4, 8], "when": {"seed": 1}},
    }
    assert "form a circle" in problems(space)[0]


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"kind": "choice"}, "needs values"),
        ({"kind": "choice", "values": [1, 1]}, "listed twice"),
        ({"kind": "choice", "values": [1], "q": 2}, "takes values, not q"),
        ({"kind": "uniform", "low": 1}, "needs low and high"),
        ({"kind": "uniform", "low": 2, "high": 1}, "not below high"),
        ({"kind": "uniform", "low": 0, "high": 1, "q": 2}, "q 2 is larger"),
        ({"kind": "log_uniform", "low": 0, "high": 1}, "low > 0"),
        ({"kind": "log_uniform", "low": 1, "high": 2, "q": 1}, "has no q"),
        ({"kind": "int", "low": 0.5, "high": 2}, "needs integers"),
        ({"kind": "int", "low": 1, "high": 2, "values": [1]}, "not values"),
    ],
)
def test_a_distribution_that_contradicts_itself_is_refused(dimension, message):
    with pytest.raises(ValueError, match=message):
        sweep_config({LR: dimension})


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"searcher": "grid"}, "grid needs a list of values"),
        ({"second_metric": "seconds"}, "needs sweep.searcher=optuna"),
        ({"second_metric": "seconds", "searcher": "optuna"}, "needs sweep.scheduler=none"),
        ({"scheduler": "pbt", "searcher": "optuna"}, "needs sweep.searcher=random"),
        ({"scheduler": "pbt", "trials": 1}, "at least 2 trials"),
        ({"scheduler": "pbt", "warm_start": "best"}, "copies weights itself"),
    ],
)
def test_a_search_whose_settings_do_not_fit_together_is_refused(sweep, message):
    assert any(message in line for line in problems({LR: RATES}, sweep))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("model.fpn.channels", "weights would not fit"),
        (BATCH, "order of the images"),
        ("seed", "order of the images"),
        ("data.train_short_sides", "shapes of the batches"),
        ("train.optimizer.kind", "state of the optimizer"),
        ("train.schedule.steps", "same point of the same schedule"),
    ],
)
def test_pbt_refuses_what_cannot_change_in_the_middle_of_a_training(key, reason):
    space = {key: {"kind": "choice", "values": [1, 2]}}
    assert reason in problems(space, {"scheduler": "pbt"})[0]


def test_pbt_accepts_rates_decays_and_augmentation():
    space = {
        LR: RATES,
        "train.optimizer.weight_decay": {"kind": "uniform", "low": 0, "high": 0.1},
        "data.color_jitter.hue": {"kind": "choice", "values": [0.0, 0.1]},
        "data.flip_probability": {"kind": "uniform", "low": 0, "high": 1},
    }
    check_space(sweep_config(space, {"scheduler": "pbt"}))


def test_a_warm_start_is_refused_where_weights_may_not_fit():
    space = {"model.fpn.channels": {"kind": "choice", "values": [16, 32]}}
    assert "may not fit" in problems(space, {"warm_start": "best"})[0]


def test_an_empty_space_is_refused():
    assert "empty" in problems({})[0]


def test_a_class_that_the_shards_lack_is_refused_before_any_trial(shapes_shards):
    names = [category.name for category in read_manifest(shapes_shards).categories]
    weights = {"kind": "choice", "values": [1.0, 5.0]}

    def check(name):
        space = {f"model.box.class_weights.{name}": weights}
        tree = {"data": {"train_shards": shapes_shards, "val_shards": shapes_shards}}
        check_trials(sweep_config(space, model={"num_classes": len(names)}, **tree))

    check(names[0])
    with pytest.raises(ConfigError, match=f"no class {names[0]}s; did you mean {names[0]}"):
        check(f"{names[0]}s")
