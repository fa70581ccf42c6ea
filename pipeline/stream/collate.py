"""Decode shard rows to training samples, and pad samples to one batch.

Shapes: G ground-truth objects of an image, P keypoints.
"""

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
from model.structures.batch_masks import identity_to_canvas
from pipeline.shards.decode import DecodeError
from pipeline.shards.row import ShardRow
from pipeline.shards.run_lengths import run_ends
from pipeline.stream.augment import TrainingSample


@dataclass(frozen=True)
class StreamBatch:
    """The images of one micro-batch and their objects.

    Args:
        images: on one canvas.
        targets: one per image.
        step: optimizer step the batch is for.
    """

    images: ImageBatch
    targets: tuple[Targets, ...]
    step: int


def sample_from_row(
    row: ShardRow, with_masks: bool, keypoint_count: int | None = None
) -> TrainingSample:
    """Decode a row to a sample without its crowd regions.

    Args:
        row: a row of a shard.
        with_masks: whether targets carry masks.
        keypoint_count: P; None gives targets without keypoints.

    Raises:
        DecodeError: the image is damaged, its size differs from the row's, or a run-length mask
            does not fit the image.
    """
    pixels = row.decode()
    if pixels.shape[:2] != row.size:
        raise DecodeError(f"the image is {pixels.shape[:2]}, but its row says {tuple(row.size)}")
    kept = np.flatnonzero(~row.iscrowd)
    targets = Targets(
        boxes=torch.from_numpy(row.boxes[kept].astype(np.float32)),
        labels=torch.from_numpy(row.labels[kept]),
        masks=_masks(row, kept) if with_masks else None,
        keypoints=None if keypoint_count is None else _keypoints(row, kept, keypoint_count),
        image_id=row.image_id,
    )
    # torch needs writable arrays: simplejpeg's are, Pillow's are not.
    writable = pixels if pixels.flags.writeable else pixels.copy()
    return TrainingSample(torch.from_numpy(writable), targets, row.size)


def blank_sample(
    size: ImageSize, with_masks: bool, keypoint_count: int | None = None
) -> TrainingSample:
    """Return a gray image without objects, the replacement of an unreadable one."""
    no_masks = PolygonMasks(
        vertices=torch.zeros(0, 2),
        polygon_offsets=torch.zeros(1, dtype=torch.int64),
        object_offsets=torch.zeros(1, dtype=torch.int64),
    )
    targets = Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=no_masks if with_masks else None,
        keypoints=None if keypoint_count is None else torch.zeros(0, keypoint_count, 3),
    )
    return TrainingSample(torch.full((*size, 3), 128, dtype=torch.uint8), targets, size)


def _keypoints(row: ShardRow, kept: np.ndarray, count: int) -> Tensor:
    """Return the (G, P, 3) keypoints of the kept objects."""
    # A row without objects does not say what P is.
    if row.keypoints is None or not len(kept):
        return torch.zeros(len(kept), count, 3)
    return torch.from_numpy(row.keypoints[kept].astype(np.float32))


def _masks(row: ShardRow, kept: np.ndarray) -> InstanceMasks:
    """Return polygons, combined with run lengths if any kept object has them."""
    polygons = _polygon_masks(row, kept)
    if all(row.rle[index] is None for index in kept):
        return polygons
    return MixedMasks(polygons, _run_length_masks(row, kept))


def _run_length_masks(row: ShardRow, kept: np.ndarray) -> RunLengthMasks:
    counts = [row.rle[index] for index in kept.tolist()]
    no_runs = np.zeros(0, dtype=np.int64)
    ends = [no_runs if text is None else run_ends(text, row.size) for text in counts]
    return RunLengthMasks(
        run_ends=torch.from_numpy(np.concatenate(ends)),
        run_offsets=torch.tensor(np.cumsum([0, *map(len, ends)]), dtype=torch.int64),
        heights=torch.full((len(kept),), row.size.height),
        to_canvas=identity_to_canvas(len(kept), torch.device("cpu")),
    )


def _polygon_masks(row: ShardRow, kept: np.ndarray) -> PolygonMasks:
    by_object = [row.polygons(index) for index in kept.tolist()]
    polygons = [polygon for of_object in by_object for polygon in of_object]
    vertices = np.concatenate(polygons) if polygons else np.zeros((0, 2))
    return PolygonMasks(
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        polygon_offsets=torch.tensor(np.cumsum([0, *map(len, polygons)]), dtype=torch.int64),
        object_offsets=torch.tensor(np.cumsum([0, *map(len, by_object)]), dtype=torch.int64),
    )


def collate(
    samples: Sequence[TrainingSample],
    sampling_seeds: Sequence[int],
    canvas: ImageSize,
    size_divisor: int,
    step: int,
) -> StreamBatch:
    """Pad samples to one batch.

    Args:
        samples: already augmented.
        sampling_seeds: one per sample, for the model's random sampling.
        canvas: minimum size of the padded images.
        size_divisor: the padded size is a multiple of this.
        step: optimizer step the batch is for.
    """
    images = pad_batch(
        [sample.pixels for sample in samples],
        [sample.original_size for sample in samples],
        sampling_seeds,
        size_divisor,
        canvas,
    )
    return StreamBatch(images, tuple(sample.targets for sample in samples), step)
