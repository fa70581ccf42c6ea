"""``run.json``: which MLflow run an output folder belongs to, with which settings, how it ended."""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.track.mlflow_run import flatten_settings

logger = logging.getLogger(__name__)

# Settings that change where and how fast a run goes, not what comes out of it.
OPERATIONAL = {
    "workers",
    "device",
    "cpus_per_worker",
    "channels_last",
    "checkpoint_every",
    "keep_checkpoints",
    "validate_every",
    "log_every",
    "max_failures",
}


class RunMismatchError(ValueError):
    """The output folder holds a run that the present settings cannot continue."""


@dataclass(frozen=True)
class RunRecord:
    """What stands in an output folder about its training.

    Args:
        run_id: the MLflow run; a resumed training continues it.
        tracking_uri: where that run is kept.
        dataset_digest: digest of the training shards.
        model: the detector's settings, flat.
        recipe: the training settings that decide the result, flat, scaled to the batch.
        result: what a finished training returned; None before.
        adopted: conventions taken over from the weights that it started from.
    """

    run_id: str
    tracking_uri: str
    dataset_digest: str
    model: dict[str, str]
    recipe: dict[str, str]
    result: dict[str, Any] | None = None
    adopted: dict[str, Any] = field(default_factory=dict)


def recorded_run(url: str) -> RunRecord | None:
    """Read the record; None where no training has begun.

    Raises:
        StorageError: it cannot be read.
    """
    return RunRecord(**storage.read_json(url)) if storage.exists(url) else None


def write_record(url: str, record: RunRecord) -> None:
    """Write the record, atomically."""
    storage.write_json(url, asdict(record))


def recipe_settings(config: RunConfig) -> dict[str, str]:
    """The settings that decide what training makes of a model and a data set, flat."""
    recipe = config.train.model_dump(mode="json", exclude=OPERATIONAL)
    return flatten_settings({"train": recipe, "seed": config.seed})


def check_continuable(record: RunRecord, present: RunRecord, output: str) -> None:
    """Refuse to go on with another model or data; say which settings of the recipe changed.

    Raises:
        RunMismatchError: the model or the data changed, or the run is finished and its recipe
            changed without asking for more steps.
    """
    if changed := _changes(record.model, present.model):
        raise RunMismatchError(
            f"{output} holds the training of another model ({changed}); choose another output"
        )
    if record.dataset_digest != present.dataset_digest:
        raise RunMismatchError(
            f"{output} holds a training on other data (the shards' digest is now "
            f"{present.dataset_digest[:12]}, was {record.dataset_digest[:12]}); "
            "choose another output"
        )
    changed = _changes(record.recipe, present.recipe)
    if not changed:
        return
    if is_finished(record, present):
        raise RunMismatchError(
            f"{output} holds a finished training with other settings ({changed}); choose another "
            "output, or more train.schedule.steps to continue it"
        )
    logger.warning("continuing the training in %s with changed settings: %s", output, changed)


def is_finished(record: RunRecord, present: RunRecord) -> bool:
    """Whether the recorded training has taken all steps that are wanted now."""
    wanted = int(present.recipe["train.schedule.steps"])
    return record.result is not None and int(record.result["steps"]) >= wanted


def _changes(before: dict[str, str], now: dict[str, str]) -> str:
    return ", ".join(
        f"{key}: {before.get(key, 'unset')} -> {now.get(key, 'unset')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )
