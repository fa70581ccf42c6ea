"""Rows of shards become training samples, and samples one padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.preprocess import pad_batch
from model.structures import (
    ImageBatch,
    ImageSize,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)
from model.structures.batch_masks import unmoved
from pipeline.shards.decode import DecodeError, decode_image
from pipeline.shards.row import ShardRow
from pipeline.shards.run_lengths import run_ends
from pipeline.stream.augment import TrainingSample


@dataclass(frozen=True)
class StreamBatch:
    """The images of one micro-batch with their objects.

    Args:
        images: on one canvas, the same for all workers of a step.
        targets: one per image.
        step: optimiser step that the batch is for.
    """

    images: ImageBatch
    targets: tuple[Targets, ...]
    step: int


def sample_from_row(
    row: ShardRow, with_masks: bool, keypoint_count: int | None = None
) -> TrainingSample:
    """Decode a row; crowd regions are left out.

    Args:
        row: as it was read.
        with_masks: whether the targets get masks.
        keypoint_count: keypoints of an object, as the data set has them; None: no keypoints.

    Raises:
        DecodeError: the image is damaged or has another size than the row says; a run-length mask
            does not fill its image.
    """
    pixels = decode_image(row.image_bytes)
    if pixels.shape[:2] != row.size:
        raise DecodeError(f"the image is {pixels.shape[:2]}, its row says {tuple(row.size)}")
    kept = np.flatnonzero(~row.iscrowd)
    targets = Targets(
        boxes=torch.from_numpy(row.boxes[kept].astype(np.float32)),
        labels=torch.from_numpy(row.labels[kept]),
        masks=_masks(row, kept) if with_masks else None,
        keypoints=None if keypoint_count is None else _keypoints(row, kept, keypoint_count),
        image_id=row.image_id,
    )
    # simplejpeg's arrays are writable, Pillow's are not, and torch wants them so.
    writable = pixels if pixels.flags.writeable else pixels.copy()
    return TrainingSample(torch.from_numpy(writable), targets, row.size)


def blank_sample(
    size: ImageSize, with_masks: bool, keypoint_count: int | None = None
) -> TrainingSample:
    """A grey image without objects: stands in for one that cannot be read."""
    masks = PolygonMasks(torch.zeros(0, 2), *(torch.zeros(1, dtype=torch.int64) for _ in "po"))
    targets = Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        masks if with_masks else None,
        None if keypoint_count is None else torch.zeros(0, keypoint_count, 3),
    )
    return TrainingSample(torch.full((*size, 3), 128, dtype=torch.uint8), targets, size)


def _keypoints(row: ShardRow, kept: np.ndarray, count: int) -> Tensor:
    """(N, P, 3) of the kept objects; a row without objects does not know P."""
    if row.keypoints is None or not len(kept):
        return torch.zeros(len(kept), count, 3)
    return torch.from_numpy(row.keypoints[kept].astype(np.float32))


def _masks(row: ShardRow, kept: np.ndarray) -> InstanceMasks:
    """Polygons, and runs where an object has them."""
    polygons = _polygon_masks(row, kept)
    if all(row.rle[index] is None for index in kept):
        return polygons
    return MixedMasks(polygons, _run_length_masks(row, kept))


def _run_length_masks(row: ShardRow, kept: np.ndarray) -> RunLengthMasks:
    counts = [row.rle[index] for index in kept.tolist()]
    none = np.zeros(0, dtype=np.int64)
    ends = [none if text is None else run_ends(text, row.size) for text in counts]
    return RunLengthMasks(
        torch.from_numpy(np.concatenate(ends)),
        torch.tensor(np.cumsum([0, *map(len, ends)]), dtype=torch.int64),
        torch.full((len(kept),), row.size.height),
        unmoved(len(kept), torch.device("cpu")),
    )


def _polygon_masks(row: ShardRow, kept: np.ndarray) -> PolygonMasks:
    polygons = [row.polygons(index) for index in kept.tolist()]
    flat = [polygon for outlines in polygons for polygon in outlines]
    vertices = np.concatenate(flat) if flat else np.zeros((0, 2))
    return PolygonMasks(
        torch.from_numpy(vertices.astype(np.float32)),
        torch.tensor(np.cumsum([0, *map(len, flat)]), dtype=torch.int64),
        torch.tensor(np.cumsum([0, *map(len, polygons)]), dtype=torch.int64),
    )


def collate(
    samples: Sequence[TrainingSample],
    sampling_seeds: Sequence[int],
    canvas: ImageSize,
    size_divisor: int,
    step: int,
) -> StreamBatch:
    """One padded batch.

    Args:
        samples: already augmented.
        sampling_seeds: one per sample, for the model's random choices.
        canvas: least size of the padded images.
        size_divisor: the padded size is a multiple of this.
        step: the optimiser step that the batch is for.
    """
    images = pad_batch(
        [sample.pixels for sample in samples],
        [sample.original_size for sample in samples],
        sampling_seeds,
        size_divisor,
        canvas,
    )
    return StreamBatch(images, tuple(sample.targets for sample in samples), step)
