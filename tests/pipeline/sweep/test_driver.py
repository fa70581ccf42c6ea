"""The sweep's scheduling, and a complete sweep through Ray Tune, Ray Train and MLflow."""

import time

import pytest
from mlflow import MlflowClient

from pipeline.cluster import ClusterResources
from pipeline.config import RunConfig, load_config
from pipeline.ingest.splits import prepare_split
from pipeline.sweep.driver import concurrent_trials, early_stopping, run_sweep
from pipeline.train.failures import TrainingError
from tests.pipeline.sweep.sweep_config import LR, sweep_config


def test_grace_period_and_end_are_counted_in_images():
    config = sweep_config({}, train={"global_batch": 4, "recipe_batch": 16, "workers": 1})
    scheduler = early_stopping(config)
    # 90,000 steps of the recipe's 16 images; a grace period of 7 steps of 4 images.
    assert scheduler._max_t == 90_000 * 16
    assert min(rung for rung, _ in scheduler._brackets[0]._rungs) == 28


@pytest.mark.ray
@pytest.mark.parametrize(
    ("workers", "cpus", "limit", "expected"), [(1, 1, None, 2), (2, 1, None, 1), (1, 1, 1, 1)]
)
def test_as_many_trials_run_as_fit_into_the_cluster(ray_cluster, workers, cpus, limit, expected):
    config = RunConfig.model_validate(
        {
            "train": {"workers": workers, "cpus_per_worker": cpus, "global_batch": 2},
            "sweep": {"max_concurrent": limit},
        }
    )
    assert concurrent_trials(config, ClusterResources(cpus=2, gpus=0)) == expected


@pytest.mark.ray
def test_a_sweep_whose_trials_cannot_fit_is_refused(ray_cluster):
    config = RunConfig.model_validate(
        {"train": {"workers": 4, "cpus_per_worker": 1, "global_batch": 4}}
    )
    with pytest.raises(TrainingError, match="need 4 CPUs, but this machine has 2"):
        concurrent_trials(config, ClusterResources(cpus=2, gpus=0))


@pytest.fixture(scope="module")
def config(ray_cluster, tmp_path_factory):
    """A sweep of three trials; with this seed the first learns and the others barely do.

    One of the others is stopped early, whichever trial reaches the first rung first.
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


@pytest.mark.ray
def test_every_trial_ran_and_a_weak_one_was_stopped_early(config, result):
    assert len(result.trials) == 3
    assert [trial.error for trial in result.trials] == [None] * 3
    stopped = [trial for trial in result.trials if trial.stopped_early]
    assert stopped
    assert all(trial.steps < config.train.schedule.steps for trial in stopped)
    assert any(not trial.stopped_early for trial in result.trials)


@pytest.mark.ray
def test_the_best_config_loads_as_a_training_config(config, result):
    best = load_config(result.best_config_url)
    assert best.train.optimizer.lr == result.best_values[LR]
    assert best.model == config.model
    assert best.sweep == RunConfig().sweep
    losses = [t.metrics["train/loss"] for t in result.trials if not t.stopped_early]
    assert result.best_metrics["train/loss"] == min(losses)


@pytest.mark.ray
def test_each_trial_is_a_finished_run_nested_under_the_sweeps_run(config, result):
    client = MlflowClient(tracking_uri=f"sqlite:///{config.output}/mlflow.db")
    parent = client.get_run(result.run_id)
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    assert len(nested) == 3
    assert {run.info.status for run in nested} == {"FINISHED"}
    rates = sorted(float(run.data.params[LR]) for run in nested)
    assert rates == sorted(trial.values[LR] for trial in result.trials)


@pytest.mark.ray
def test_stopped_trials_release_their_cpus(ray_cluster, result):
    deadline = time.monotonic() + 60
    while ray_cluster.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray_cluster.available_resources().get("CPU") == 2


@pytest.mark.ray
def test_a_finished_sweep_returns_at_once(config, result):
    assert run_sweep(config) == result
