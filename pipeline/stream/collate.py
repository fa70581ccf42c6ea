"""Augment samples and join them to one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from model.preprocess import write_padded
from model.structures import BatchTargets, ImageBatch, ImageSize, Targets, join_targets
from model.structures.transfer import map_tensors, tensors_of
from pipeline.stream.augmentation.apply import TrainingSample, augment_pixels, augment_targets
from pipeline.stream.augmentation.copy_paste import Composition, paste_pixels, paste_targets
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


@dataclass(frozen=True)
class Paste:
    """Objects to paste on an image.

    Args:
        sample: the image they are from, with these objects alone.
        augmentation: of that image.
        limits: where they are cut; see `paste_targets`.
    """

    sample: TrainingSample
    augmentation: Augmentation
    limits: ImageSize


def collate(
    samples: Sequence[TrainingSample],
    augmentations: Sequence[Augmentation],
    sampling_seeds: Sequence[int],
    canvas: ImageSize,
    step: int,
    keypoint_flip: Sequence[int] = (),
    allocate: Allocate = new_buffer,
    pastes: Mapping[int, Paste] = MappingProxyType({}),
    with_masks: bool = True,
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
        pastes: by index of a sample, the objects to paste on it.
        with_masks: whether targets carry masks.
    """
    pairs = list(zip(samples, augmentations, strict=True))
    objects = [_augmented_targets(*pair, keypoint_flip) for pair in pairs]
    compositions: dict[int, Composition] = {}
    for index, paste in pastes.items():
        compositions[index] = paste_targets(
            objects[index],
            augmentations[index].output_size,
            _augmented_targets(paste.sample, paste.augmentation, keypoint_flip),
            paste.limits,
        )
        objects[index] = compositions[index].targets
    num_keypoints = _keypoint_count(samples[0].targets)
    targets = join_targets(objects, torch.device("cpu"), with_masks, num_keypoints)
    tensors = tensors_of(targets)
    layouts = [TensorLayout(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    layouts.append(TensorLayout((len(samples), *canvas, 3), torch.uint8))
    buffer, (*packed, pixels) = allocate_packed(layouts, allocate)
    for tensor, copy in zip(tensors, packed, strict=True):
        copy.copy_(tensor)
    # One by one, so that each resized image is in the memory that the one before has left.
    for index, (row, (sample, augmentation)) in enumerate(zip(pixels, pairs, strict=True)):
        write_padded(row, augment_pixels(sample.pixels, augmentation))
        if index in compositions:
            source = augment_pixels(pastes[index].sample.pixels, pastes[index].augmentation)
            paste_pixels(row, augmentation.output_size, source, compositions[index].cover)
    sizes = [augmentation.output_size for augmentation in augmentations]
    for index, composition in compositions.items():
        sizes[index] = composition.size
    images = ImageBatch(
        pixels.permute(0, 3, 1, 2),
        tuple(sizes),
        tuple(sample.original_size for sample in samples),
        tuple(sampling_seeds),
    )
    in_order = iter(packed)
    return StreamBatch(images, map_tensors(targets, lambda _: next(in_order)), step, buffer)


def _augmented_targets(
    sample: TrainingSample, augmentation: Augmentation, keypoint_flip: Sequence[int]
) -> Targets:
    return augment_targets(sample.targets, sample.original_size, augmentation, keypoint_flip)


def _keypoint_count(targets: Targets) -> int:
    return 0 if targets.keypoints is None else targets.keypoints.shape[1]
