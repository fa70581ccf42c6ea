import pytest

from model.config.settings import ConfigError, check_settings
from pipeline.config import RunConfig, to_yaml
from pipeline.sweep.driver import concurrent_trials, early_stopping
from pipeline.sweep.search_space import (
    best_config,
    check_space,
    distributions,
    trial_config,
    with_values,
)

LR = "train.optimizer.lr"


def sweep_config(space, **tree):
    return RunConfig.model_validate(
        {"output": "/out", **tree, "sweep": {"space": space, "grace_steps": 7}}
    )


def draw(dimension, count=300):
    config = sweep_config({"k": dimension})
    domain = distributions(config.sweep.space)["k"]
    return [domain.sample() for _ in range(count)]


def test_a_choice_draws_each_of_its_options():
    assert set(draw({"kind": "choice", "values": [1, "a", None]})) == {1, "a", None}


def test_an_int_reaches_both_bounds():
    assert set(draw({"kind": "int", "low": 2, "high": 4})) == {2, 3, 4}


def test_a_uniform_stays_in_its_bounds():
    values = draw({"kind": "uniform", "low": 0.5, "high": 0.75})
    assert all(0.5 <= value <= 0.75 for value in values)


def test_a_log_uniform_draws_as_many_small_orders_as_large_ones():
    values = draw({"kind": "log_uniform", "low": 1e-4, "high": 1.0})
    below = sum(value < 1e-2 for value in values)
    # Half of 300, five standard deviations (8.7).
    assert 106 < below < 194


def test_a_trial_has_the_drawn_values_its_own_folder_and_the_sweeps_data_and_tracker():
    config = sweep_config({LR: {"kind": "uniform", "low": 0.1, "high": 0.2}})
    trial = trial_config(config, {LR: 0.15}, "t1")
    assert trial.train.optimizer.lr == 0.15
    assert trial.output == "/out/sweep/trials/t1"
    assert trial.data.train_shards == "/out/shards/train"
    assert trial.data.val_shards == "/out/shards/val"
    assert trial.track.uri == "sqlite:////out/mlflow.db"
    assert trial.sweep == RunConfig().sweep


def test_a_trial_validates_at_least_every_grace_period_and_saves_with_it():
    config = sweep_config({LR: {"kind": "uniform", "low": 0.1, "high": 0.2}})
    trial = trial_config(config, {}, "t1")
    assert (trial.train.validate_every, trial.train.checkpoint_every) == (7, 7)


def test_the_best_config_is_complete_and_has_no_sweep():
    config = sweep_config({LR: {"kind": "uniform", "low": 0.1, "high": 0.2}})
    best = best_config(config, {LR: 0.15})
    assert best.sweep == RunConfig().sweep
    assert best.train.optimizer.lr == 0.15
    assert best.train.validate_every == config.train.validate_every
    assert f"lr: {0.15}" in to_yaml(best)


def test_a_value_reaches_a_nested_key_and_nothing_else():
    config = RunConfig()
    changed = with_values(config, {"model.rpn.nms_iou": 0.5})
    assert changed.model.rpn.nms_iou == 0.5
    restored = with_values(changed, {"model.rpn.nms_iou": config.model.rpn.nms_iou})
    assert restored == config


def test_every_bad_key_and_value_of_the_space_is_named_at_once():
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


def test_grace_and_end_are_the_same_for_every_batch():
    config = sweep_config({}, train={"global_batch": 4, "recipe_batch": 16, "workers": 1})
    scheduler = early_stopping(config)
    # 90,000 steps of the recipe's 16 images; 7 steps of 4 images of grace.
    assert scheduler._max_t == 90_000 * 16
    assert min(rung for rung, _ in scheduler._brackets[0]._rungs) == 28


def test_a_config_written_as_yaml_is_read_back():
    import yaml

    config = best_config(sweep_config({}), {LR: 0.3})
    assert check_settings(RunConfig, yaml.safe_load(to_yaml(config))) == config


@pytest.mark.ray
@pytest.mark.parametrize(
    ("workers", "cpus", "wish", "expected"), [(1, 1, None, 2), (2, 1, None, 1), (1, 1, 1, 1)]
)
def test_only_as_many_trials_run_as_the_cluster_holds(ray_cluster, workers, cpus, wish, expected):
    from pipeline.cluster import ClusterResources

    config = RunConfig.model_validate(
        {
            "train": {"workers": workers, "cpus_per_worker": cpus, "global_batch": 2},
            "sweep": {"max_concurrent": wish},
        }
    )
    assert concurrent_trials(config, ClusterResources(cpus=2, gpus=0)) == expected


@pytest.mark.ray
def test_a_sweep_whose_trials_cannot_fit_is_refused_instead_of_waiting(ray_cluster):
    from pipeline.cluster import ClusterResources
    from pipeline.train.failures import TrainingError

    config = RunConfig.model_validate({"train": {"workers": 4, "global_batch": 4}})
    with pytest.raises(TrainingError, match="need 4 CPUs, but this machine has 2"):
        concurrent_trials(config, ClusterResources(cpus=2, gpus=0))
