"""Whether a data set has what the model of a configuration learns from."""

from collections.abc import Iterator

from model.config.keypoint_names import flip_order
from model.config.settings import ConfigError
from pipeline.config import RunConfig
from pipeline.shards.manifest import Manifest


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
    elif problem := _differing_names(names, manifest, shards_url):
        yield problem
    elif config.data.flip_probability > 0:
        try:
            flip_order(names)
        except ValueError as error:
            yield f"model.keypoint.names: {error}; or set data.flip_probability=0"


def check_measurable(config: RunConfig, manifest: Manifest, shards_url: str) -> None:
    """Refuse validation shards whose keypoints are not those that the model learns.

    Raises:
        ConfigError: they have other keypoints; none at all are no hindrance to the rest.
    """
    if config.model.keypoint is not None and manifest.keypoints is not None:
        problem = _differing_names(config.model.keypoint.names, manifest, shards_url)
        if problem is not None:
            raise ConfigError([problem])


def _differing_names(names: tuple[str, ...], manifest: Manifest, shards_url: str) -> str | None:
    there = manifest.keypoints
    if there is None or there.names == names:
        return None
    return (
        f"model.keypoint.names: must be those of {shards_url} in their order, "
        f"[{', '.join(there.names)}]; got [{', '.join(names)}]"
    )


def flips_keep_every_name(config: RunConfig) -> bool:
    """Whether flipped images occur, but no keypoint's name says which side it is on."""
    names = config.model.keypoint.names if config.model.keypoint else ()
    flips = config.data.flip_probability > 0 and len(names) > 1
    return flips and flip_order(names) == tuple(range(len(names)))
