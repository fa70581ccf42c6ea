"""Whether a data set has what the model of a configuration learns from."""

import logging
from collections.abc import Iterator

from model.keypoint_names import flip_order
from model.settings import ConfigError
from pipeline.config import RunConfig
from pipeline.ingest.manifest import Manifest

logger = logging.getLogger(__name__)


def check_fit(config: RunConfig, manifest: Manifest, shards_url: str) -> None:
    """Refuse a data set that the model cannot be trained on.

    Args:
        config: of the run.
        manifest: of the training shards.
        shards_url: where they are, for error texts.

    Raises:
        ConfigError: the data set's classes, masks or keypoints do not fit the model.
    """
    problems = [
        *_class_problems(config, manifest, shards_url),
        *_keypoint_problems(config, manifest, shards_url),
    ]
    if problems:
        raise ConfigError(problems)


def _class_problems(config: RunConfig, manifest: Manifest, shards_url: str) -> Iterator[str]:
    classes = len(manifest.categories)
    if config.model.num_classes != classes:
        yield (
            f"model.num_classes: {shards_url} has {classes} categories; "
            f"got {config.model.num_classes}"
        )
    without = manifest.counts.get("without_mask", 0)
    if config.model.mask is not None and without:
        yield (
            f"model.mask: {without} objects of {shards_url} have no mask; model.mask=null trains "
            "boxes only"
        )


def _keypoint_problems(config: RunConfig, manifest: Manifest, shards_url: str) -> Iterator[str]:
    there = manifest.keypoints
    if config.data.min_keypoints and there is None:
        yield (
            f"data.min_keypoints: {shards_url} has no keypoints, so no image would be left; "
            "data.min_keypoints=0 keeps all"
        )
    if config.model.keypoint is None:
        return
    names = config.model.keypoint.names
    if there is None:
        yield (
            f"model.keypoint: {shards_url} has no keypoints; prepare it from a file whose "
            "categories name them, or set model.keypoint=null"
        )
    elif there.names != names:
        yield (
            f"model.keypoint.names: must be those of {shards_url} in their order, "
            f"[{', '.join(there.names)}]; got [{', '.join(names)}]"
        )
    elif config.data.flip_probability > 0:
        yield from _flip_problems(names)


def _flip_problems(names: tuple[str, ...]) -> Iterator[str]:
    try:
        order = flip_order(names)
    except ValueError as error:
        yield f"model.keypoint.names: {error}; or set data.flip_probability=0"
        return
    if len(names) > 1 and order == tuple(range(len(names))):
        logger.warning(
            "no keypoint is called left_... or right_...: a flipped image keeps every name. If "
            "some are mirror images of each other, set data.flip_probability=0"
        )
