"""Decode shard rows to training samples, and join samples to one batch.

Shapes: G ground-truth objects of an image, P keypoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.preprocess import canvas_size, pad_batch
from model.structures import (
    BatchTargets,
    ImageBatch,
    ImageSize,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
    join_targets,
)
from model.structures.batch_masks import identity_to_canvas
from model.structures.transfer import map_tensors, tensors_of
from pipeline.shards.decode import DecodeError
from pipeline.shards.row import ShardRow
from pipeline.shards.run_lengths import run_ends
from pipeline.stream.augment import TrainingSample
from pipeline.stream.packed_tensors import TensorLayout, allocate_packed, on_copied_buffer


@dataclass(frozen=True)
class StreamBatch:
    """The images of one micro-batch and their objects.

    Args:
        images: on one canvas.
        targets: the objects of all images.
        step: optimizer step the batch is for.
        buffer: (N,) uint8, the memory of all tensors of the batch.
    """

    images: ImageBatch
    targets: BatchTargets
    step: int
    buffer: Tensor

    def on_copied_buffer(self, copy: Tensor) -> "StreamBatch":
        """Return the batch with its tensors in a copy of the buffer, on any device."""
        return replace(
            self,
            images=on_copied_buffer(self.images, copy),
            targets=on_copied_buffer(self.targets, copy),
            buffer=copy,
        )


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
    pin_memory: bool = False,
) -> StreamBatch:
    """Join samples to one batch.

    Args:
        samples: already augmented.
        sampling_seeds: one per sample, for the model's random sampling.
        canvas: minimum size of the padded images.
        size_divisor: the padded size is a multiple of this.
        step: optimizer step the batch is for.
        pin_memory: whether the batch is in page-locked memory, to be copied to a GPU.
    """
    targets = join_targets(
        [sample.targets for sample in samples],
        torch.device("cpu"),
        with_masks=samples[0].targets.masks is not None,
        num_keypoints=_keypoint_count(samples[0].targets),
    )
    sizes = [ImageSize(*sample.pixels.shape[:2]) for sample in samples]
    padded = canvas_size(sizes, size_divisor, canvas)
    tensors = tensors_of(targets)
    buffer, (pixels, *packed) = allocate_packed(
        [
            TensorLayout((len(samples), *padded, 3), torch.uint8),
            *(TensorLayout(tuple(tensor.shape), tensor.dtype) for tensor in tensors),
        ],
        pin_memory,
    )
    for tensor, copy in zip(tensors, packed, strict=True):
        copy.copy_(tensor)
    images = pad_batch(
        [sample.pixels for sample in samples],
        [sample.original_size for sample in samples],
        sampling_seeds,
        size_divisor,
        canvas,
        out=pixels,
    )
    in_order = iter(packed)
    return StreamBatch(images, map_tensors(targets, lambda _: next(in_order)), step, buffer)


def _keypoint_count(targets: Targets) -> int:
    return 0 if targets.keypoints is None else targets.keypoints.shape[1]
