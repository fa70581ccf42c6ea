"""Decode shard rows to training samples.

Shapes: G ground-truth objects of an image, P keypoints.
"""

import numpy as np
import torch
from torch import Tensor

from model.images.decode import DecodeError
from model.structures import (
    ImageSize,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)
from model.structures.batch_masks import identity_to_canvas
from pipeline.shards.row import ShardRow
from pipeline.shards.run_lengths import run_ends
from pipeline.stream.augmentation.apply import TrainingSample


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
    polygons, object_offsets = _select_items(row.object_offsets, kept)
    vertices, polygon_offsets = _select_items(row.polygon_offsets, polygons)
    return PolygonMasks(
        vertices=torch.from_numpy(row.vertices[vertices].astype(np.float32)),
        polygon_offsets=torch.from_numpy(polygon_offsets),
        object_offsets=torch.from_numpy(object_offsets),
    )


def _select_items(offsets: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the items of some owners, and the offsets of these owners into them.

    Args:
        offsets: (N + 1,) owner n has the items ``offsets[n]:offsets[n + 1]``.
        owners: the owners to select.
    """
    counts = np.diff(offsets)[owners]
    selected = np.concatenate([[0], np.cumsum(counts)])
    items = np.arange(selected[-1]) + np.repeat(offsets[owners] - selected[:-1], counts)
    return items, selected
