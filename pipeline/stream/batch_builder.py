"""Build micro-batches from planned rows: decode, augment, pad; bad rows become gray images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.boxes.convention import CONTINUOUS, BoxConvention
from model.config.conventions import ResizeRounding
from model.config.keypoint_names import flip_order
from model.preprocess import canvas_size
from model.structures import ImageSize
from pipeline.shards.decode import DecodeError
from pipeline.stream.augment import Augmentation, TrainingSample, augment, draw_augmentation
from pipeline.stream.collate import StreamBatch, blank_sample, collate, sample_from_row
from pipeline.stream.planned_row import PlannedRow
from pipeline.stream.shard_plan import ShardPlan, images_of_step, locate_image

# Purposes of random numbers; part of the seed.
_AUGMENTATION, _SAMPLING = 0, 1


@dataclass(frozen=True)
class BatchSettings:
    """How rows become batches.

    Args:
        short_sides: short sides to draw from, pixels.
        long_side: limit of the long side, pixels.
        flip_probability: probability of a horizontal flip.
        size_divisor: padded sizes are multiples of this.
        with_masks: whether targets carry masks.
        keypoint_names: names of the keypoints that targets carry; None if they carry none.
        rounding: how the resized sides are rounded; see ``model.preprocess.resized_size``.
        convention: box convention.
    """

    short_sides: tuple[int, ...]
    long_side: int
    flip_probability: float
    size_divisor: int
    with_masks: bool
    keypoint_names: tuple[str, ...] | None = None
    rounding: ResizeRounding = "nearest"
    convention: BoxConvention = CONTINUOUS

    @property
    def keypoint_count(self) -> int | None:
        """Number of keypoints per object; None if targets carry none."""
        return None if self.keypoint_names is None else len(self.keypoint_names)


@dataclass(frozen=True)
class BadRow:
    """An unreadable row, replaced by a gray image without objects.

    Args:
        file: name of the shard.
        row: index of the row in the shard.
        step: optimizer step the row was planned for.
        reason: why it cannot be read.
    """

    file: str
    row: int
    step: int
    reason: str


@dataclass(frozen=True)
class BuiltBatch:
    """A micro-batch and the rows that were replaced in it."""

    batch: StreamBatch
    bad_rows: tuple[BadRow, ...]


def build_batch(
    plan: ShardPlan, settings: BatchSettings, step: int, rows: Sequence[PlannedRow]
) -> BuiltBatch:
    """Decode, augment and pad the rows of one micro-batch.

    Random numbers depend only on (seed, epoch, image), and the canvas is that of the whole global
    batch, so neither depends on the number of workers.

    Args:
        plan: plan of the dataset.
        settings: sizes, probabilities and what targets carry.
        step: the optimizer step.
        rows: the planned rows, in order of their slots in the global batch.
    """
    epoch, images = images_of_step(plan, step)
    augmentations = [_draw_augmentation(plan, settings, epoch, image) for image in images.tolist()]
    # Names without left/right counterparts cannot be flipped but may train without flips.
    flips = any(augmentation.flip for augmentation in augmentations)
    keypoint_flip = flip_order(settings.keypoint_names or ()) if flips else ()
    samples, seeds, bad_rows = [], [], []
    for planned in rows:
        image = int(images[planned.slot])
        try:
            sample = _decode(planned, settings)
        except DecodeError as error:
            bad_rows.append(BadRow(*locate_image(plan, image), step, str(error)))
            size = ImageSize(*plan.sizes[image].tolist())
            sample = blank_sample(size, settings.with_masks, settings.keypoint_count)
        samples.append(augment(sample, augmentations[planned.slot], keypoint_flip))
        seeds.append(int(_rng(plan, epoch, image, _SAMPLING).integers(2**62)))
    canvas = canvas_size([each.size for each in augmentations], settings.size_divisor)
    batch = collate(samples, seeds, canvas, settings.size_divisor, step)
    return BuiltBatch(batch, tuple(bad_rows))


def _decode(planned: PlannedRow, settings: BatchSettings) -> TrainingSample:
    if planned.row is None:
        raise DecodeError(planned.problem)
    return sample_from_row(planned.row, settings.with_masks, settings.keypoint_count)


def _draw_augmentation(
    plan: ShardPlan, settings: BatchSettings, epoch: int, image: int
) -> Augmentation:
    return draw_augmentation(
        ImageSize(*plan.sizes[image].tolist()),
        settings.short_sides,
        settings.long_side,
        settings.flip_probability,
        _rng(plan, epoch, image, _AUGMENTATION),
        settings.rounding,
        settings.convention,
    )


def _rng(plan: ShardPlan, epoch: int, image: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, epoch, image, purpose])
