"""Build micro-batches from planned rows: decode, augment, pad; bad rows become gray images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from model.config.keypoint_names import flip_order
from model.images.decode import DecodeError
from model.preprocess import canvas_size
from model.structures import ImageSize
from pipeline.config.train import CanvasScope
from pipeline.stream.augmentation.apply import TrainingSample
from pipeline.stream.augmentation.draw import AugmentationRanges
from pipeline.stream.augmentation.object_selection import select_objects
from pipeline.stream.augmentation.random_crop import crop_to_object
from pipeline.stream.buffers import Allocate
from pipeline.stream.collate import Paste, StreamBatch, collate
from pipeline.stream.drawn_step import DrawnStep, draw_step
from pipeline.stream.paste_plan import choose_objects
from pipeline.stream.planned_row import PlannedRow
from pipeline.stream.random_numbers import Purpose, random_bits
from pipeline.stream.samples import blank_sample, sample_from_row
from pipeline.stream.shard_plan import ShardPlan, locate_image


@dataclass(frozen=True)
class BatchSettings:
    """How rows become batches.

    Args:
        augmentation: what augmentations are drawn from.
        size_divisor: padded sizes are multiples of this.
        with_masks: whether targets carry masks.
        keypoint_names: names of the keypoints that targets carry; None if they carry none.
        canvas: images that share a canvas; see ``train.canvas``.
        paste_probability: ``data.copy_paste_probability``.
    """

    augmentation: AugmentationRanges
    size_divisor: int
    with_masks: bool
    keypoint_names: tuple[str, ...] | None = None
    canvas: CanvasScope = "global_batch"
    paste_probability: float = 0.0

    @property
    def keypoint_count(self) -> int | None:
        """Number of keypoints per object; None if targets carry none."""
        return None if self.keypoint_names is None else len(self.keypoint_names)


@dataclass(frozen=True)
class BadRow:
    """An unreadable row.

    Args:
        file: name of the shard.
        row: index of the row in the shard.
        step: optimizer step the row was planned for.
        reason: why it cannot be read.
        effect: what the step does without it.
    """

    file: str
    row: int
    step: int
    reason: str
    effect: str = "replaced by a gray image"


@dataclass(frozen=True)
class BuiltBatch:
    """A micro-batch.

    Args:
        batch: the images and their objects.
        row_count: number of rows it was built from.
        bad_rows: those that could not be read.
    """

    batch: StreamBatch
    row_count: int
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
        rows: the planned rows, in order of their slots in the global batch, then those of the
            paste slots (``paste_plan``).
        allocate: returns the memory of the batch.
    """
    images = [planned for planned in rows if planned.slot < plan.global_batch]
    own = [planned.slot for planned in images]
    padded_together = range(plan.global_batch) if settings.canvas == "global_batch" else own
    drawn = draw_step(
        plan, settings.augmentation, settings.paste_probability, step, padded_together
    )
    bad_rows: list[BadRow] = []
    pastes = _decode_pastes(plan, settings, drawn, rows, bad_rows)
    samples = _decode_images(plan, settings, drawn, images, bad_rows)
    augmentations = [
        crop_to_object(drawn.augmentations[slot], sample.targets, sample.original_size)
        for slot, sample in zip(own, samples, strict=True)
    ]
    # Names without left/right counterparts cannot be flipped but may train without flips.
    flips = any(augmentation.mirrors for augmentation in drawn.augmentations.values())
    # Below 2^62: a seed fits an int64, twice over.
    seeds = random_bits(plan.seed, step, own, Purpose.SAMPLING, draws=1)[:, 0] >> 2
    sizes = [drawn.augmentations[slot].output_size for slot in padded_together]
    batch = collate(
        samples,
        augmentations,
        seeds.tolist(),
        canvas_size([*sizes, *drawn.paste_limits.values()], settings.size_divisor),
        step,
        flip_order(settings.keypoint_names or ()) if flips else (),
        allocate,
        {own.index(slot): paste for slot, paste in pastes.items()},
        settings.with_masks,
    )
    return BuiltBatch(batch, len(rows), tuple(bad_rows))


def _decode_images(
    plan: ShardPlan,
    settings: BatchSettings,
    drawn: DrawnStep,
    rows: Sequence[PlannedRow],
    bad_rows: list[BadRow],
) -> list[TrainingSample]:
    """Return a sample for each row, a gray image if it cannot be read; add to the bad rows."""
    samples = []
    for planned in rows:
        with_masks = settings.with_masks or planned.slot in drawn.paste_limits
        try:
            sample = _decode(planned, settings, with_masks)
        except DecodeError as error:
            image = int(drawn.images[planned.slot])
            bad_rows.append(BadRow(*locate_image(plan, image), drawn.step, str(error)))
            size = ImageSize(*plan.sizes[image].tolist())
            sample = blank_sample(size, with_masks, settings.keypoint_count)
        samples.append(sample)
    return samples


def _decode_pastes(
    plan: ShardPlan,
    settings: BatchSettings,
    drawn: DrawnStep,
    rows: Sequence[PlannedRow],
    bad_rows: list[BadRow],
) -> dict[int, Paste]:
    """Return by slot what is pasted on its image; add to the bad rows."""
    pastes = {}
    for planned in rows:
        slot = planned.slot - plan.global_batch
        if slot < 0:
            continue
        try:
            sample = _decode(planned, settings, with_masks=True)
        except DecodeError as error:
            image = int(drawn.images[planned.slot])
            where = locate_image(plan, image)
            bad_rows.append(BadRow(*where, drawn.step, str(error), "its objects are not pasted"))
            continue
        chosen = choose_objects(plan, drawn.step, slot, len(sample.targets))
        targets = select_objects(sample.targets, torch.tensor(chosen, dtype=torch.int64))
        if chosen:
            # To any object of the image, as where it is not pasted from.
            augmentation = crop_to_object(
                drawn.augmentations[planned.slot], sample.targets, sample.original_size
            )
            pastes[slot] = Paste(
                replace(sample, targets=targets), augmentation, drawn.paste_limits[slot]
            )
    return pastes


def _decode(planned: PlannedRow, settings: BatchSettings, with_masks: bool) -> TrainingSample:
    if planned.row is None:
        raise DecodeError(planned.problem)
    return sample_from_row(planned.row, with_masks, settings.keypoint_count)
