"""One trial of a sweep: its config, and its training, which reports to Ray Tune."""

import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from pipeline import storage
from pipeline.config import RunConfig, SweepConfig
from pipeline.output_layout import SWEEP_FOLDER, split_shards_url
from pipeline.storage.exclusive_use import FolderInUseError
from pipeline.sweep.population_trial import train_in_population
from pipeline.sweep.search_space import with_values
from pipeline.track.mlflow_store import tracking_uri
from pipeline.track.stored_weights import trained_checkpoint
from pipeline.train.driver import run_training
from pipeline.train.failures import error_message

ERROR_FILE = "error.json"
"""In a trial's folder: why it failed."""

# The processes of a sweep that was killed may outlive it by a few seconds.
_OTHERS_END_WITHIN_S = 60.0


def run_trial(settings: Mapping[str, Any], config: RunConfig, parent_run_id: str) -> None:
    """Train with sampled values; called by Ray Tune in an actor that reserves no CPU.

    A trial that is restarted (after a crash, or by a resumed sweep) continues from its newest
    checkpoint: it keeps its id and therefore its folder.

    Args:
        settings: the sampled ``values`` by dotted key, and the ``weights`` to begin with, if any.
        config: the sweep's config.
        parent_run_id: the sweep's MLflow run; the trial's run is nested under it.
    """
    # The settings of a population's member are a copy of another's, but its name is its own.
    trial_id = tune.get_context().get_trial_name()
    own = trial_config(config, settings["values"], trial_id, settings["weights"])
    try:
        _wait_for_others(own, config, parent_run_id, trial_id)
    except Exception as error:
        # Ray Tune keeps the exception in memory, and tells its callbacks only that there was one.
        url = storage.join(own.output, ERROR_FILE)
        storage.write_json(url, {"error": error_message(error)})
        raise


def _wait_for_others(own: RunConfig, config: RunConfig, parent_run_id: str, trial_id: str) -> None:
    deadline = time.monotonic() + _OTHERS_END_WITHIN_S
    while True:
        try:
            if config.sweep.scheduler == "pbt":
                train_in_population(own, parent_run_id, trial_id, sweep_folder(config))
            else:
                run_training(own, parent_run_id=parent_run_id, callbacks=[TuneReportCallback()])
            return
        except FolderInUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(2.0)


def sweep_folder(config: RunConfig) -> str:
    """Return the folder that holds all files of a sweep."""
    return storage.join(config.output, SWEEP_FOLDER)


def trial_folder(config: RunConfig, trial_id: str) -> str:
    """Return the output folder of a trial."""
    return storage.join(sweep_folder(config), "trials", trial_id)


def trial_checkpoint(config: RunConfig, trial_id: str) -> str:
    """Return the URL of the checkpoint to use of a trial.

    Raises:
        MissingFileError: it has none.
    """
    return trained_checkpoint(config.model_copy(update={"output": trial_folder(config, trial_id)}))


def read_error(config: RunConfig, trial_id: str) -> str | None:
    """Return why a trial failed; None if it has not said."""
    url = storage.join(trial_folder(config, trial_id), ERROR_FILE)
    return str(storage.read_json(url)["error"]) if storage.exists(url) else None


def forget_error(config: RunConfig, trial_id: str) -> None:
    """Delete what `read_error` reads."""
    storage.delete(storage.join(trial_folder(config, trial_id), ERROR_FILE))


def trial_config(
    config: RunConfig, values: Mapping[str, Any], trial_id: str, weights: str | None = None
) -> RunConfig:
    """Return a trial's config: sampled values, its own folder, the sweep's data and tracker.

    A trial saves a checkpoint whenever it validates, so each of its reports has both the metric
    and a checkpoint.

    Args:
        config: the sweep's config.
        values: the sampled values by dotted key.
        trial_id: the trial.
        weights: checkpoint to begin with instead of ``train.weights``.
    """
    every = config.train.validate_every or config.sweep.grace_steps
    return with_values(
        _relocated(config, f"{config.name}-{trial_id}", trial_folder(config, trial_id)),
        {
            **values,
            **_warm_start(weights),
            "train.validate_every": every,
            "train.checkpoint_every": every,
        },
    )


def best_config(
    config: RunConfig, values: Mapping[str, Any], weights: str | None = None
) -> RunConfig:
    """Return the config that trains with the best trial's values, for ``train.py``."""
    output = storage.join(sweep_folder(config), "best")
    return with_values(
        _relocated(config, f"{config.name}-best", output), {**values, **_warm_start(weights)}
    )


def _warm_start(weights: str | None) -> dict[str, str]:
    return {} if weights is None else {"train.weights": weights}


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
