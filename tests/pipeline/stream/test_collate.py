"""Samples are augmented, padded and joined to a batch."""

import numpy as np
import torch

from model.structures import ImageSize, join_targets
from model.structures.transfer import tensors_of
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.collate import collate
from pipeline.stream.samples import blank_sample, sample_from_row
from tests.pipeline.stream.rows import mixed_row, row

CPU = torch.device("cpu")


def unchanged(samples):
    """Return augmentations that change nothing."""
    return [Augmentation(sample.original_size, flip=False) for sample in samples]


def test_a_batch_is_padded_to_the_canvas_of_its_step():
    samples = [sample_from_row(row(), True), blank_sample(ImageSize(30, 10), True)]
    batch = collate(samples, unchanged(samples), (11, 12), ImageSize(32, 64), step=4)
    assert tuple(batch.images.pixels.shape) == (2, 3, 32, 64)
    assert batch.images.pixels.dtype == torch.uint8
    assert (batch.images.pixels[0, :, :16, :20] == 50).all()
    assert batch.images.pixels[0, :, 16:].sum() == batch.images.pixels[0, :, :, 20:].sum() == 0
    assert batch.images.sizes == batch.images.original_sizes == ((16, 20), (30, 10))
    assert (batch.images.sampling_seeds, batch.step) == ((11, 12), 4)
    assert batch.targets.image_ids == (8, -1)


def mixed_batch():
    """A batch of an image with polygons and run lengths, and one without objects."""
    mixed = mixed_row(keypoints=np.arange(27, dtype=float).reshape(3, 3, 3))
    samples = [sample_from_row(mixed, True, 3), blank_sample(ImageSize(30, 10), True, 3)]
    joined = join_targets([sample.targets for sample in samples], CPU, True, 3)
    return collate(samples, unchanged(samples), (11, 12), ImageSize(32, 32), step=4), joined


def test_the_objects_of_a_batch_are_joined():
    batch, joined = mixed_batch()
    for tensor, expected in zip(tensors_of(batch.targets), tensors_of(joined), strict=True):
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected)
    assert batch.targets.counts == (2, 0)
    assert batch.targets.image_ids == (8, -1)


def test_all_tensors_of_a_batch_are_in_one_buffer_and_move_with_it():
    batch, _ = mixed_batch()
    parts = tensors_of(batch.images) + tensors_of(batch.targets)
    memory = batch.buffer.untyped_storage().data_ptr()
    assert {tensor.untyped_storage().data_ptr() for tensor in parts} == {memory}
    content = [tensor.clone() for tensor in parts]
    moved = batch.on_copied_buffer(batch.buffer.clone())
    batch.buffer.zero_()
    for tensor, expected in zip(
        tensors_of(moved.images) + tensors_of(moved.targets), content, strict=True
    ):
        assert tensor.stride() == expected.stride()
        assert torch.equal(tensor, expected)
    assert moved.targets.counts == batch.targets.counts
    assert (moved.images.sizes, moved.step) == (batch.images.sizes, 4)
