"""A trial and the best config change only what the sweep sampled."""

import yaml

from model.config.settings import check_settings
from pipeline.config import RunConfig, to_yaml
from pipeline.sweep.trial import best_config, trial_config
from tests.pipeline.sweep.sweep_config import LR, sweep_config


def test_a_trial_has_the_sampled_values_its_own_folder_and_the_sweeps_data_and_tracker():
    config = sweep_config({LR: {"kind": "uniform", "low": 0.1, "high": 0.2}})
    trial = trial_config(config, {LR: 0.15}, "t1")
    assert trial.train.optimizer.lr == 0.15
    assert trial.output == "/out/sweep/trials/t1"
    assert trial.data.train_shards == "/out/shards/train"
    assert trial.data.val_shards == "/out/shards/val"
    assert trial.track.uri == "sqlite:////out/mlflow.db"
    assert trial.sweep == RunConfig().sweep


def test_a_trial_validates_and_saves_at_every_grace_period():
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


def test_a_config_written_as_yaml_loads_unchanged():
    config = best_config(sweep_config({}), {LR: 0.3})
    assert check_settings(RunConfig, yaml.safe_load(to_yaml(config))) == config


def test_a_warm_trial_and_its_best_config_begin_with_the_given_checkpoint():
    config = sweep_config({LR: {"kind": "uniform", "low": 0.1, "high": 0.2}})
    assert trial_config(config, {LR: 0.15}, "0001").train.weights is None
    for made in (trial_config(config, {LR: 0.15}, "0001", "/c"), best_config(config, {}, "/c")):
        assert made.train.weights == "/c"
