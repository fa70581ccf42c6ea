"""Check that a dataset has the classes, masks and keypoints that the model learns."""

import difflib
import logging
from collections.abc import Iterator, Sequence

from model.config.keypoint_names import flip_order
from model.config.settings import ConfigError
from model.structures import Category
from pipeline.config import RunConfig
from pipeline.shards.class_match import ClassMismatchError, list_names, match_classes
from pipeline.shards.manifest import Manifest

logger = logging.getLogger(__name__)


def check_training_data(config: RunConfig, manifest: Manifest, shards_url: str) -> None:
    """Raise if the model cannot be trained on the dataset.

    Args:
        config: the job's settings.
        manifest: manifest of the training shards.
        shards_url: URL of the shards, for error messages.

    Raises:
        ConfigError: the dataset's classes, masks or keypoints do not fit the model.
    """
    problems = [
        *_class_problems(config, manifest, shards_url),
        *_keypoint_problems(config, manifest, shards_url),
        *_sampling_problems(config, manifest, shards_url),
        *_paste_problems(config, manifest, shards_url),
    ]
    if problems:
        raise ConfigError(problems)
    if config.model.mask is not None and _without_mask(manifest):
        logger.warning(
            "%d of %d objects of %s have no mask: their boxes are trained, the mask loss leaves "
            "them out",
            _without_mask(manifest),
            _objects(manifest),
            shards_url,
        )
    if config.data.copy_paste_probability and _without_mask(manifest):
        logger.warning(
            "%d of %d objects of %s have no mask, so copy-paste never pastes them",
            _without_mask(manifest),
            _objects(manifest),
            shards_url,
        )


def check_validation_data(
    config: RunConfig,
    manifest: Manifest,
    shards_url: str,
    train_categories: Sequence[Category] = (),
) -> None:
    """Raise if the validation shards have other classes or keypoints than the model learns.

    Shards without any keypoints pass: boxes and masks can still be validated.

    Args:
        config: the job's settings.
        manifest: manifest of the validation shards.
        shards_url: URL of the shards, for error messages.
        train_categories: classes of the training shards; empty skips their comparison.

    Raises:
        ConfigError: no class is in both splits, or the shards' keypoints differ from the model's.
    """
    if train_categories and not config.model.is_proposal_network:
        check_classes("the training data", train_categories, manifest.categories, shards_url)
    if config.model.keypoint is not None and manifest.keypoints is not None:
        problem = _name_problem(config.model.keypoint.names, manifest, shards_url)
        if problem is not None:
            raise ConfigError([problem])


def check_classes(
    learned_from: str,
    learned: Sequence[Category],
    evaluated: Sequence[Category],
    shards_url: str,
) -> None:
    """Raise if no class that a detector learns is evaluated; warn about classes it cannot know.

    Args:
        learned_from: what has the learned classes, for messages.
        learned: the classes of the detector.
        evaluated: the classes of the shards it is evaluated on.
        shards_url: URL of these shards.

    Raises:
        ConfigError: the classes cannot be matched by name.
    """
    try:
        match = match_classes(learned, evaluated)
    except ClassMismatchError as error:
        raise ConfigError([f"classes of {learned_from} and of {shards_url}: {error}"]) from None
    if match.unknown:
        logger.warning(
            "%s lacks classes of %s, so their AP will be 0 if they have objects: %s",
            learned_from,
            shards_url,
            list_names(match.unknown),
        )
    if match.without_objects:
        logger.info(
            "%s has classes that %s lacks, so they have no AP: %s",
            learned_from,
            shards_url,
            list_names([category.name for category in match.without_objects]),
        )


def flip_swaps_no_keypoints(config: RunConfig) -> bool:
    """Return whether images are flipped although no keypoint has a left or right counterpart."""
    names = config.model.keypoint.names if config.model.keypoint else ()
    flips = _flips(config) and len(names) > 1
    return flips and flip_order(names) == tuple(range(len(names)))


def _flips(config: RunConfig) -> bool:
    return config.data.flip_probability > 0 or config.data.vertical_flip_probability > 0


def _class_problems(config: RunConfig, manifest: Manifest, shards_url: str) -> Iterator[str]:
    classes = len(manifest.categories)
    if config.model.num_classes != classes:
        yield (
            f"model.num_classes: {shards_url} has {classes} categories; "
            f"got {config.model.num_classes}"
        )
    names = [category.name for category in manifest.categories]
    if config.data.classes and _folded(config.data.classes) != _folded(names):
        yield (
            f"data.classes: {shards_url} has the classes {list_names(names)}; run "
            "maskrcnn-ray prepare_shards to select others, or remove the setting"
        )
    for head in ("box", "retinanet"):
        section = getattr(config.model, head)
        for name in section.class_weights if section is not None else ():
            if name not in names:
                close = difflib.get_close_matches(name, names, 1)
                hint = (
                    f"did you mean {close[0]}?" if close else f"its classes are {list_names(names)}"
                )
                yield f"model.{head}.class_weights: {shards_url} has no class {name}; {hint}"
    if config.model.mask is not None and 0 < _objects(manifest) == _without_mask(manifest):
        yield (
            f"model.mask: no object of {shards_url} has a mask; set model.mask=null to train boxes "
            "only"
        )


def _folded(names: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in names]


def _sampling_problems(config: RunConfig, manifest: Manifest, shards_url: str) -> Iterator[str]:
    if config.data.images_without_objects == "drop" and not _objects(manifest):
        yield (
            f"data.images_without_objects: no image of {shards_url} has objects, so none would be "
            "left; set data.images_without_objects=keep to train on background alone"
        )


def _paste_problems(config: RunConfig, manifest: Manifest, shards_url: str) -> Iterator[str]:
    if config.data.copy_paste_probability and 0 < _objects(manifest) == _without_mask(manifest):
        yield (
            f"data.copy_paste_probability: no object of {shards_url} has a mask to cut it out "
            "with; set data.copy_paste_probability=0"
        )


def _objects(manifest: Manifest) -> int:
    return manifest.counts.get("objects", 0)


def _without_mask(manifest: Manifest) -> int:
    return manifest.counts.get("without_mask", 0)


def _keypoint_problems(config: RunConfig, manifest: Manifest, shards_url: str) -> Iterator[str]:
    if config.data.min_keypoints and manifest.keypoints is None:
        yield (
            f"data.min_keypoints: {shards_url} has no keypoints, so no image would be left; "
            "set data.min_keypoints=0 to keep all images"
        )
    if config.model.keypoint is None:
        return
    names = config.model.keypoint.names
    if manifest.keypoints is None:
        yield (
            f"model.keypoint: {shards_url} has no keypoints; prepare it from annotations whose "
            "categories name keypoints, or set model.keypoint=null"
        )
    elif problem := _name_problem(names, manifest, shards_url):
        yield problem
    elif _flips(config):
        try:
            flip_order(names)
        except ValueError as error:
            yield (
                f"model.keypoint.names: {error}; or set data.flip_probability=0 and "
                "data.vertical_flip_probability=0"
            )


def _name_problem(names: tuple[str, ...], manifest: Manifest, shards_url: str) -> str | None:
    if manifest.keypoints is None or manifest.keypoints.names == names:
        return None
    return (
        f"model.keypoint.names: must be those of {shards_url} in the same order, "
        f"[{', '.join(manifest.keypoints.names)}]; got [{', '.join(names)}]"
    )
