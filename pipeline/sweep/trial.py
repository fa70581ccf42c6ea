"""One trial of a sweep: its config, and its training, which reports to Ray Tune."""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from pipeline import storage
from pipeline.config import RunConfig, SweepConfig
from pipeline.output_layout import SWEEP_FOLDER, split_shards_url
from pipeline.sweep.search_space import with_values
from pipeline.track.mlflow_store import tracking_uri
from pipeline.train.driver import run_training


def run_trial(values: Mapping[str, Any], config: RunConfig, parent_run_id: str) -> None:
    """Train with sampled values; called by Ray Tune in an actor that reserves no CPU.

    A trial that is restarted (after a crash, or by a resumed sweep) continues from its newest
    checkpoint: it keeps its id and therefore its folder.

    Args:
        values: the sampled values by dotted key.
        config: the sweep's config.
        parent_run_id: the sweep's MLflow run; the trial's run is nested under it.
    """
    trial_id = tune.get_context().get_trial_id()
    run_training(
        trial_config(config, values, trial_id),
        parent_run_id=parent_run_id,
        callbacks=[TuneReportCallback()],
    )


def sweep_folder(config: RunConfig) -> str:
    """Return the folder that holds all files of a sweep."""
    return storage.join(config.output, SWEEP_FOLDER)


def trial_folder(config: RunConfig, trial_id: str) -> str:
    """Return the output folder of a trial."""
    return storage.join(sweep_folder(config), "trials", trial_id)


def trial_config(config: RunConfig, values: Mapping[str, Any], trial_id: str) -> RunConfig:
    """Return a trial's config: sampled values, its own folder, the sweep's data and tracker.

    A trial saves a checkpoint whenever it validates, so each of its reports has both the metric
    and a checkpoint.
    """
    every = config.train.validate_every or config.sweep.grace_steps
    return with_values(
        _relocated(config, f"{config.name}-{trial_id}", trial_folder(config, trial_id)),
        {**values, "train.validate_every": every, "train.checkpoint_every": every},
    )


def best_config(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the config that trains with the best trial's values, for ``train.py``."""
    output = storage.join(sweep_folder(config), "best")
    return with_values(_relocated(config, f"{config.name}-best", output), values)


def _relocated(config: RunConfig, name: str, output: str) -> RunConfig:
    """Return the config with another name and output, but the same data and tracker."""
    return config.model_copy(
        update={
            "name": name,
            "output": output,
            "sweep": SweepConfig(),
            "data": config.data.model_copy(
                update={
                    "train_shards": split_shards_url(config, "train"),
                    "val_shards": split_shards_url(config, "val"),
                }
            ),
            "track": config.track.model_copy(update={"uri": tracking_uri(config)}),
        }
    )


def reported_name(metric: str) -> str:
    """Return a metric's name in reports: ``segm/AP`` is ``val/segm/AP``; ``train/loss`` stays."""
    return metric if metric.startswith(("train/", "val/")) else f"val/{metric}"
