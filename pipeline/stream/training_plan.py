"""The plan of a training: which images of its shards it trains on, by its data settings."""

import logging
from collections.abc import Iterator

from pipeline.config import RunConfig
from pipeline.shards.image_contents import complete_manifest
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.stream.shard_plan import ShardPlan, plan_shards

logger = logging.getLogger(__name__)


def read_training_manifest(config: RunConfig, shards_url: str) -> Manifest:
    """Read the manifest of the training shards, with what the data settings need to know.

    Raises:
        StorageError: there is no manifest, or a shard cannot be read.
    """
    manifest = read_manifest(shards_url)
    data = config.data
    needs_contents = data.repeat_threshold > 0 or data.images_without_objects == "drop"
    return complete_manifest(manifest, shards_url) if needs_contents else manifest


def plan_training(config: RunConfig, manifest: Manifest) -> ShardPlan:
    """Plan the epochs of a training.

    Args:
        config: the job's settings.
        manifest: from `read_training_manifest`.

    Raises:
        ValueError: there is no image to train on.
    """
    return plan_shards(
        manifest,
        config.train.global_batch,
        config.seed,
        min_keypoints=config.data.min_keypoints,
        drop_images_without_objects=config.data.images_without_objects == "drop",
        repeat_threshold=config.data.repeat_threshold,
    )


def describe_sampling(config: RunConfig, plan: ShardPlan) -> Iterator[str]:
    """Yield sentences about the images that are left out or repeated."""
    data = config.data
    total, kept = len(plan.sizes), plan.image_count
    if kept < total:
        reasons = []
        if data.min_keypoints:
            reasons.append(f"fewer than {data.min_keypoints} labeled keypoints")
        if data.images_without_objects == "drop":
            reasons.append("no objects")
        yield f"{total - kept} of {total} images have {' or '.join(reasons)} and are left out"
    if plan.weights is not None:
        yield (
            f"an epoch repeats images of rare classes: {plan.epoch_length} images instead of {kept}"
        )
    elif data.repeat_threshold:
        yield (
            f"every class is in at least {data.repeat_threshold:g} of the images "
            "(data.repeat_threshold), so none is repeated"
        )
