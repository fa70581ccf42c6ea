"""A whole sweep through Ray Tune, Ray Train and MLflow, on a few drawn images."""

import time

import pytest
from mlflow import MlflowClient

from pipeline.config import RunConfig, load_config
from pipeline.ingest.splits import prepare_split
from pipeline.sweep.driver import run_sweep

pytestmark = pytest.mark.ray

LR = "train.optimizer.lr"


@pytest.fixture(scope="module")
def config(ray_cluster, tmp_path_factory):
    """Three trials; with this seed the first learns and the others next to nothing.

    One of those is stopped early whichever trial arrives first at the first rung.
    """
    config = RunConfig.model_validate(
        {
            "output": str(tmp_path_factory.mktemp("sweep")),
            "seed": 1,
            "model": {
                "num_classes": 5,
                "input": {"short_side": 64, "long_side": 64},
                "backbone": {
                    "depth": 18,
                    "norm": "group_norm",
                    "frozen_stages": 0,
                    "width": 8,
                },
                "fpn": {"channels": 16},
                "rpn": {
                    "anchor_sizes": [8, 16, 32, 64, 128],
                    "samples_per_image": 32,
                    "pre_nms_train": 50,
                    "pre_nms_test": 20,
                    "post_nms_train": 50,
                    "post_nms_test": 10,
                },
                "box": {"hidden": 16, "samples_per_image": 16, "detections_per_image": 5},
                "mask": None,
            },
            "data": {
                "shapes": {"images": 8, "val_images": 2, "side": 64, "max_objects": 2},
                "train_short_sides": [64],
                "decode_threads": 1,
            },
            "train": {
                "device": "cpu",
                "global_batch": 2,
                "schedule": {"steps": 8, "milestones": [100], "warmup_steps": 0},
                "validate_every": 2,
                "log_every": 1,
            },
            "sweep": {
                "space": {LR: {"kind": "choice", "values": [0.02, 1e-7]}},
                "trials": 3,
                "metric": "train/loss",
                "mode": "min",
                "grace_steps": 2,
                "reduction_factor": 2,
            },
        }
    )
    prepare_split(config, "train")
    prepare_split(config, "val")
    return config


@pytest.fixture(scope="module")
def result(config):
    return run_sweep(config)


def test_every_trial_ran_and_a_weak_one_was_stopped_early(config, result):
    assert len(result.trials) == 3
    assert [trial.error for trial in result.trials] == [None] * 3
    stopped = [trial for trial in result.trials if trial.stopped_early]
    assert stopped
    assert all(trial.steps < config.train.schedule.steps for trial in stopped)
    assert any(not trial.stopped_early for trial in result.trials)


def test_the_best_config_is_what_train_takes(config, result):
    best = load_config(result.best_config_url)
    assert best.train.optimizer.lr == result.best_values[LR]
    assert best.model == config.model
    assert best.sweep == RunConfig().sweep
    losses = [t.metrics["train/loss"] for t in result.trials if not t.stopped_early]
    assert result.best_metrics["train/loss"] == min(losses)


def test_each_trial_is_a_finished_run_nested_under_the_sweeps(config, result):
    client = MlflowClient(tracking_uri=f"sqlite:///{config.output}/mlflow.db")
    parent = client.get_run(result.run_id)
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    assert len(nested) == 3
    assert {run.info.status for run in nested} == {"FINISHED"}
    rates = sorted(float(run.data.params[LR]) for run in nested)
    assert rates == sorted(trial.values[LR] for trial in result.trials)


def test_stopped_trials_give_their_cpus_back(ray_cluster, result):
    deadline = time.monotonic() + 60
    while ray_cluster.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray_cluster.available_resources().get("CPU") == 2


def test_a_finished_sweep_returns_at_once(config, result):
    assert run_sweep(config) == result
