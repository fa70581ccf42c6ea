"""``run.json``: an output folder's MLflow run, the settings it was trained with, and its result."""

import logging
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import TRAINING_FOLDER, from_portable, to_portable
from pipeline.storage.records import parse_record
from pipeline.track.mlflow_run import flatten_settings
from pipeline.track.mlflow_store import recorded_uri

logger = logging.getLogger(__name__)

# Settings that change where, how fast or whether a run trains, but not its result.
OPERATIONAL = {
    "allow_frozen_random_norms",
    "workers",
    "min_workers",
    "device",
    "cpus_per_worker",
    "gpus_per_worker",
    "channels_last",
    "activation_checkpointing",
    "compile",
    "checkpoint_every",
    "keep_checkpoints",
    "validate_every",
    "validate_every_epochs",
    "validation_loss",
    "resume",
    "retry_out_of_memory",
    "log_every",
    "max_failures",
}

# Settings of the data that the digest of the shards does not cover.
SAMPLING = {
    "train_short_sides",
    "flip_probability",
    "vertical_flip_probability",
    "quarter_turn_probability",
    "random_crop",
    "scale_jitter",
    "color_jitter",
    "copy_paste_probability",
    "min_keypoints",
    "images_without_objects",
    "repeat_threshold",
}


class RunMismatchError(ValueError):
    """The output folder holds a run that the current settings cannot continue."""


@dataclass(frozen=True)
class RunRecord:
    """The record of a training in its output folder; in the file, URLs below it are relative.

    Args:
        run_id: the MLflow run; a resumed training continues it.
        tracking_uri: tracker of that run (`recorded_uri`).
        dataset_digest: digest of the training shards.
        model: the detector's settings, flat.
        recipe: the training settings that affect the result, flat, scaled to the batch.
        result: what the finished training returned; None until then.
        adopted: conventions adopted from the weights that training started from.
        ended_at: steps after which an earlier job ended a training that went on with other
            settings; None if none has.
    """

    run_id: str
    tracking_uri: str
    dataset_digest: str
    model: dict[str, str]
    recipe: dict[str, str]
    result: dict[str, Any] | None = None
    adopted: dict[str, Any] = field(default_factory=dict)
    ended_at: int | None = None


def read_run_record(output: str) -> RunRecord | None:
    """Read the record of an output folder; None if no training has started there.

    Raises:
        DamagedRecordError: it is not the record of a training.
        StorageError: the record cannot be read.
    """
    url = _record_url(output)
    if not storage.exists(url):
        return None
    remedy = "rename it, and the training continues without it"
    record = parse_record(from_portable(storage.read_json(url), output), RunRecord, url, remedy)
    return replace(record, tracking_uri=recorded_uri(record.tracking_uri, output))


def write_run_record(output: str, record: RunRecord) -> None:
    """Write the record of an output folder, atomically."""
    storage.write_json(_record_url(output), to_portable(asdict(record), output))


def _record_url(output: str) -> str:
    return storage.join(output, TRAINING_FOLDER, "run.json")


def recipe_settings(config: RunConfig) -> dict[str, str]:
    """Return the training settings that affect the result, flat."""
    recipe = config.train.model_dump(mode="json", exclude=OPERATIONAL)
    data = config.data.model_dump(mode="json", include=SAMPLING)
    return flatten_settings({"train": recipe, "data": data, "seed": config.seed})


def model_settings(config: RunConfig) -> dict[str, str]:
    """Return the detector's settings, flat."""
    return flatten_settings({"model": config.model.model_dump(mode="json")})


def check_resumable(record: RunRecord, present: RunRecord, output: str) -> None:
    """Raise if the current job cannot continue the recorded one; log changes of the recipe.

    Args:
        record: the record in the output folder.
        present: the record of the current job.
        output: the output folder, for error messages.

    Raises:
        RunMismatchError: the model or the data changed, or the run is finished and its recipe
            changed without asking for more steps.
    """
    if changes := _changes(record.model, present.model, model_settings(RunConfig())):
        raise RunMismatchError(
            f"{output} holds the training of another model ({changes}); choose another output"
        )
    if record.dataset_digest != present.dataset_digest:
        raise RunMismatchError(
            f"{output} holds a training on other data (the shards' digest is now "
            f"{present.dataset_digest[:12]}, was {record.dataset_digest[:12]}); "
            "choose another output"
        )
    changes = _changes(record.recipe, present.recipe, recipe_settings(RunConfig()))
    if not changes:
        return
    if is_finished(record, present):
        raise RunMismatchError(
            f"{output} holds a finished training with other settings ({changes}); choose another "
            "output, or increase train.schedule.steps (or epochs) to continue it"
        )
    logger.warning("continuing the training in %s with changed settings: %s", output, changes)


def is_finished(record: RunRecord, present: RunRecord) -> bool:
    """Return whether the recorded training has taken all steps that the current job asks for.

    One that ended early is finished until its settings change, such as ``train.patience``.
    """
    if record.result is None:
        return False
    ended_early = record.result.get("stopped") is not None and record.recipe == present.recipe
    return ended_early or int(record.result["steps"]) >= int(present.recipe["train.schedule.steps"])


def ended_at(record: RunRecord | None) -> int | None:
    """Return the steps after which an earlier job ended the recorded training, if one has."""
    if record is None:
        return None
    return record.ended_at if record.result is None else int(record.result["steps"])


def _changes(before: dict[str, str], now: dict[str, str], defaults: dict[str, str]) -> str:
    """Return the settings that changed, as text.

    A setting that is newer than the record had the effect of its default then.
    """
    newer = {key: value for key, value in defaults.items() if key in now}
    before = newer | before
    return ", ".join(
        f"{key}: {before.get(key, 'unset')} -> {now.get(key, 'unset')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )
