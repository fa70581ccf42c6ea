"""The length of a training: epochs of its dataset converted to steps, and steps shown as epochs."""

import logging

from pipeline.config import RunConfig
from pipeline.output_layout import split_shards_url
from pipeline.shards.manifest import Manifest
from pipeline.stream.training_plan import plan_training, read_training_manifest
from pipeline.train.schedule import convert_epochs, describe_unused_parts, scale_recipe

logger = logging.getLogger(__name__)


def steps_per_epoch(config: RunConfig, manifest: Manifest) -> int:
    """Return the steps of one pass over the training images, at least 1.

    Raises:
        ValueError: there is no image to train on.
    """
    return plan_training(config, manifest).steps_per_epoch


def settle_schedule(config: RunConfig, manifest: Manifest) -> RunConfig:
    """Return the config with its recipe scaled to the batch and everything in steps.

    Raises:
        ValueError: something is in epochs, and there is no image to train on.
    """
    train = scale_recipe(config.train)
    if train.schedule.epochs is not None:
        schedule = convert_epochs(train.schedule, steps_per_epoch(config, manifest))
        train = train.model_copy(update={"schedule": schedule})
    if train.validate_every_epochs is not None:
        every = max(1, round(train.validate_every_epochs * steps_per_epoch(config, manifest)))
        train = train.model_copy(update={"validate_every": every, "validate_every_epochs": None})
    return config.model_copy(update={"train": train})


def planned_steps(config: RunConfig) -> int:
    """Return the steps of the whole training; reads the manifest if the schedule is in epochs.

    Raises:
        FileNotFoundError: the manifest is needed, and there are no training shards.
    """
    if config.train.schedule.epochs is None:
        return scale_recipe(config.train).schedule.steps
    manifest = read_training_manifest(config, split_shards_url(config, "train"))
    return settle_schedule(config, manifest).train.schedule.steps


def log_length(config: RunConfig, manifest: Manifest) -> None:
    """Log the steps and epochs of a settled training, and warn about what lies beyond its end."""
    schedule, batch = config.train.schedule, config.train.global_batch
    plan = plan_training(config, manifest)
    per_epoch = plan.steps_per_epoch
    logger.info(
        "%d steps of %d images: %.4g epochs of %d steps, on %d images",
        schedule.steps,
        batch,
        schedule.steps / per_epoch,
        per_epoch,
        plan.image_count,
    )
    if unused := describe_unused_parts(schedule):
        logger.warning("%s", unused)
