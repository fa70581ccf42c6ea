"""Build micro-batches from planned rows: decode, augment, pad; bad rows become gray images."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config.keypoint_names import flip_order
from model.preprocess import canvas_size
from model.structures import ImageSize
from pipeline.config.train import CanvasScope
from pipeline.shards.decode import DecodeError
from pipeline.stream.augmentation.apply import TrainingSample
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.buffers import Allocate
from pipeline.stream.collate import StreamBatch, collate
from pipeline.stream.planned_row import PlannedRow
from pipeline.stream.random_numbers import Purpose, random_bits, random_fractions
from pipeline.stream.samples import blank_sample, sample_from_row
from pipeline.stream.shard_plan import Integers, ShardPlan, images_of_step, locate_image


@dataclass(frozen=True)
class BatchSettings:
    """How rows become batches.

    Args:
        augmentation: what augmentations are drawn from.
        size_divisor: padded sizes are multiples of this.
        with_masks: whether targets carry masks.
        keypoint_names: names of the keypoints that targets carry; None if they carry none.
        canvas: images that share a canvas; see ``train.canvas``.
    """

    augmentation: AugmentationRanges
    size_divisor: int
    with_masks: bool
    keypoint_names: tuple[str, ...] | None = None
    canvas: CanvasScope = "global_batch"

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
    plan: ShardPlan,
    settings: BatchSettings,
    step: int,
    rows: Sequence[PlannedRow],
    allocate: Allocate,
) -> BuiltBatch:
    """Decode, augment and pad the rows of one micro-batch.

    Random numbers depend only on (seed, step, slot). With ``settings.canvas`` "global_batch" the
    canvas depends on neither the number of workers nor the micro-batches.

    Args:
        plan: plan of the dataset.
        settings: sizes, probabilities and what targets carry.
        step: the optimizer step.
        rows: the planned rows, in order of their slots in the global batch.
        allocate: returns the memory of the batch.
    """
    _, images = images_of_step(plan, step)
    own = [planned.slot for planned in rows]
    padded_together = range(len(images)) if settings.canvas == "global_batch" else own
    drawn = _draw_augmentations(plan, settings, step, images[padded_together], padded_together)
    by_slot = dict(zip(padded_together, drawn, strict=True))
    augmentations = [by_slot[slot] for slot in own]
    # Names without left/right counterparts cannot be flipped but may train without flips.
    flips = any(augmentation.mirrors for augmentation in augmentations)
    samples, bad_rows = _decode_rows(plan, settings, step, rows)
    # Below 2^62: a seed fits an int64, twice over.
    seeds = random_bits(plan.seed, step, own, Purpose.SAMPLING, draws=1)[:, 0] >> 2
    batch = collate(
        samples,
        augmentations,
        seeds.tolist(),
        canvas_size([each.output_size for each in drawn], settings.size_divisor),
        step,
        flip_order(settings.keypoint_names or ()) if flips else (),
        allocate,
    )
    return BuiltBatch(batch, tuple(bad_rows))


def _decode_rows(
    plan: ShardPlan, settings: BatchSettings, step: int, rows: Sequence[PlannedRow]
) -> tuple[list[TrainingSample], list[BadRow]]:
    """Return a sample for each row, and the rows whose sample is a gray image."""
    _, images = images_of_step(plan, step)
    samples, bad_rows = [], []
    for planned in rows:
        try:
            samples.append(_decode(planned, settings))
        except DecodeError as error:
            image = int(images[planned.slot])
            bad_rows.append(BadRow(*locate_image(plan, image), step, str(error)))
            size = ImageSize(*plan.sizes[image].tolist())
            samples.append(blank_sample(size, settings.with_masks, settings.keypoint_count))
    return samples, bad_rows


def _decode(planned: PlannedRow, settings: BatchSettings) -> TrainingSample:
    if planned.row is None:
        raise DecodeError(planned.problem)
    return sample_from_row(planned.row, settings.with_masks, settings.keypoint_count)


def _draw_augmentations(
    plan: ShardPlan, settings: BatchSettings, step: int, images: Integers, slots: Sequence[int]
) -> list[Augmentation]:
    """Draw the augmentations of the images in some slots of a step."""
    return draw_augmentations(
        [ImageSize(*size) for size in plan.sizes[images].tolist()],
        random_fractions(plan.seed, step, slots, Purpose.AUGMENTATION, DRAWS),
        settings.augmentation,
    )
