"""Augment samples and join them to one batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.preprocess import write_padded
from model.structures import BatchTargets, ImageBatch, ImageSize, Targets, join_targets
from model.structures.transfer import map_tensors, tensors_of
from pipeline.stream.augmentation.apply import TrainingSample, augment_pixels, augment_targets
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.buffers import Allocate, new_buffer
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


def collate(
    samples: Sequence[TrainingSample],
    augmentations: Sequence[Augmentation],
    sampling_seeds: Sequence[int],
    canvas: ImageSize,
    step: int,
    keypoint_flip: Sequence[int] = (),
    allocate: Allocate = new_buffer,
) -> StreamBatch:
    """Augment samples and join them to one batch.

    Args:
        samples: images and their objects as annotated.
        augmentations: one per sample.
        sampling_seeds: one per sample, for the model's random sampling.
        canvas: size of the padded images.
        step: optimizer step the batch is for.
        keypoint_flip: see ``augmentation.apply.augment_targets``.
        allocate: returns the memory of the batch.
    """
    pairs = list(zip(samples, augmentations, strict=True))
    targets = join_targets(
        [
            augment_targets(each.targets, each.original_size, how, keypoint_flip)
            for each, how in pairs
        ],
        torch.device("cpu"),
        with_masks=samples[0].targets.masks is not None,
        num_keypoints=_keypoint_count(samples[0].targets),
    )
    tensors = tensors_of(targets)
    layouts = [TensorLayout(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    layouts.append(TensorLayout((len(samples), *canvas, 3), torch.uint8))
    buffer, (*packed, pixels) = allocate_packed(layouts, allocate)
    for tensor, copy in zip(tensors, packed, strict=True):
        copy.copy_(tensor)
    # One by one, so that each resized image is in the memory that the one before has left.
    for row, (sample, augmentation) in zip(pixels, pairs, strict=True):
        write_padded(row, augment_pixels(sample.pixels, augmentation))
    images = ImageBatch(
        pixels.permute(0, 3, 1, 2),
        tuple(augmentation.output_size for augmentation in augmentations),
        tuple(sample.original_size for sample in samples),
        tuple(sampling_seeds),
    )
    in_order = iter(packed)
    return StreamBatch(images, map_tensors(targets, lambda _: next(in_order)), step, buffer)


def _keypoint_count(targets: Targets) -> int:
    return 0 if targets.keypoints is None else targets.keypoints.shape[1]
