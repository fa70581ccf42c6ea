"""Rows that have arrived become one micro-batch; a bad row becomes a grey image, and is named."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.boxes.convention import CONTINUOUS, BoxGeometry
from model.config.keypoint_names import flip_order
from model.preprocess import ResizeRounding, canvas_size
from model.structures import ImageSize
from pipeline.shards.decode import DecodeError
from pipeline.stream.arrived_row import ArrivedRow
from pipeline.stream.augment import Augmentation, TrainingSample, augment, draw_augmentation
from pipeline.stream.collate import StreamBatch, blank_sample, collate, sample_from_row
from pipeline.stream.shard_plan import ShardPlan, images_of_step, locate_image

_AUGMENTATION, _SAMPLING = 0, 1  # purposes of random numbers


@dataclass(frozen=True)
class Recipe:
    """How rows become batches.

    Args:
        short_sides: to draw from, pixels.
        long_side: limit, pixels.
        flip_probability: of a horizontal flip.
        size_divisor: padded sizes are multiples of this.
        with_masks: whether targets carry masks.
        keypoint_names: of the keypoints that targets carry; None: they carry none.
        rounding: of the sides of resized images; see ``model.preprocess.resized_size``.
        geometry: of the boxes.
    """

    short_sides: tuple[int, ...]
    long_side: int
    flip_probability: float
    size_divisor: int
    with_masks: bool
    keypoint_names: tuple[str, ...] | None = None
    rounding: ResizeRounding = "nearest"
    geometry: BoxGeometry = CONTINUOUS

    @property
    def keypoint_count(self) -> int | None:
        """Keypoints of an object, None where targets carry none."""
        return None if self.keypoint_names is None else len(self.keypoint_names)


@dataclass(frozen=True)
class BadRow:
    """A row that a grey image without objects stood in for.

    Args:
        file: the shard.
        row: number of the row in it.
        step: the optimiser step that it was for.
        reason: why it cannot be read.
    """

    file: str
    row: int
    step: int
    reason: str


@dataclass(frozen=True)
class BuiltBatch:
    """A micro-batch and the rows that had to be replaced in it."""

    batch: StreamBatch
    bad_rows: tuple[BadRow, ...]


def build_batch(
    plan: ShardPlan, recipe: Recipe, step: int, rows: Sequence[ArrivedRow]
) -> BuiltBatch:
    """Decode, augment and pad the rows of one micro-batch.

    Everything random depends on (seed, epoch, image) alone, and the canvas is that of the whole
    global batch, so neither depends on the number of workers.

    Args:
        plan: of the data set.
        recipe: sizes and chances.
        step: the optimiser step.
        rows: in order of their places in the global batch.
    """
    epoch, images = images_of_step(plan, step)
    augmentations = [_augmentation(plan, recipe, epoch, image) for image in images.tolist()]
    # Only where something flips: names without counterparts may train without flips.
    flips = any(each.flip for each in augmentations)
    keypoint_flip = flip_order(recipe.keypoint_names or ()) if flips else ()
    samples, seeds, bad_rows = [], [], []
    for arrived in rows:
        image = int(images[arrived.place])
        augmentation = augmentations[arrived.place]
        try:
            sample = _sample(arrived, recipe)
        except DecodeError as error:
            bad_rows.append(BadRow(*locate_image(plan, image), step, str(error)))
            size = ImageSize(*plan.sizes[image].tolist())
            sample = blank_sample(size, recipe.with_masks, recipe.keypoint_count)
        samples.append(augment(sample, augmentation, keypoint_flip))
        seeds.append(int(_random(plan, epoch, image, _SAMPLING).integers(2**62)))
    canvas = canvas_size([each.size for each in augmentations], recipe.size_divisor)
    batch = collate(samples, seeds, canvas, recipe.size_divisor, step)
    return BuiltBatch(batch, tuple(bad_rows))


def _sample(arrived: ArrivedRow, recipe: Recipe) -> TrainingSample:
    if arrived.row is None:
        raise DecodeError(arrived.problem)
    return sample_from_row(arrived.row, recipe.with_masks, recipe.keypoint_count)


def _augmentation(plan: ShardPlan, recipe: Recipe, epoch: int, image: int) -> Augmentation:
    return draw_augmentation(
        ImageSize(*plan.sizes[image].tolist()),
        recipe.short_sides,
        recipe.long_side,
        recipe.flip_probability,
        _random(plan, epoch, image, _AUGMENTATION),
        recipe.rounding,
        recipe.geometry,
    )


def _random(plan: ShardPlan, epoch: int, image: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, epoch, image, purpose])
