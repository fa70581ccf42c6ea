"""Rows are decoded to samples, and samples are padded to a batch."""

import io
from dataclasses import replace

import numpy as np
import pycocotools.mask as coco_masks
import pytest
import torch
from PIL import Image

from model.structures import ImageSize, MixedMasks, PolygonMasks, join_targets
from model.structures.batch_masks import rasterize_masks
from model.structures.transfer import tensors_of
from pipeline.shards.decode import DecodeError
from pipeline.shards.row import ShardRow
from pipeline.stream.augment import Augmentation
from pipeline.stream.collate import blank_sample, collate, sample_from_row

CPU = torch.device("cpu")
FIRST = np.array([[2, 2], [9, 2], [9, 9]], dtype=float)
SECOND = np.array([[12, 1], [18, 1], [18, 6], [12, 6]], dtype=float)
THIRD = np.array([[4, 10], [10, 10], [10, 14]], dtype=float)


def unchanged(samples):
    """Return augmentations that change nothing."""
    return [Augmentation(sample.original_size, flip=False) for sample in samples]


def row(**changes):
    """Return an image of 16 x 20: an object of two polygons, a crowd region, an object of one."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 20, 3), 50, np.uint8)).save(buffer, "PNG")
    plain = ShardRow(
        image_bytes=buffer.getvalue(),
        size=ImageSize(16, 20),
        image_id=8,
        file_name="x.png",
        boxes=np.array([[2, 1, 18, 9], [0, 0, 20, 16], [4, 10, 10, 14]], dtype=float),
        labels=np.array([3, 1, 2]),
        vertices=np.concatenate([FIRST, SECOND, THIRD]),
        polygon_offsets=np.array([0, 3, 7, 10]),
        object_offsets=np.array([0, 2, 2, 3]),
        rle=(None, "crowd", None),
        iscrowd=np.array([False, True, False]),
        area=np.array([50.0, 320.0, 12.0]),
        annotation_id=np.array([1, 2, 3]),
    )
    return replace(plain, **changes)


def test_crowd_regions_are_left_out_and_polygons_stay_with_their_objects():
    sample = sample_from_row(row(), with_masks=True)
    targets = sample.targets
    assert targets.labels.tolist() == [3, 2]
    assert targets.boxes.tolist() == [[2, 1, 18, 9], [4, 10, 10, 14]]
    assert isinstance(targets.masks, PolygonMasks)
    assert targets.masks.object_offsets.tolist() == [0, 2, 3]
    assert targets.masks.polygon_offsets.tolist() == [0, 3, 7, 10]
    assert np.array_equal(targets.masks.vertices.numpy(), np.concatenate([FIRST, SECOND, THIRD]))
    assert (sample.pixels.numpy() == 50).all() and targets.image_id == 8


def test_run_length_masks_stay_runs_beside_the_polygons_of_other_objects():
    bitmap = np.zeros((16, 20), np.uint8, order="F")
    bitmap[10:14, 4:10] = 1
    counts = coco_masks.encode(bitmap)["counts"].decode()
    mixed = row(
        rle=(None, "crowd", counts),
        vertices=np.concatenate([FIRST, SECOND]),
        polygon_offsets=np.array([0, 3, 7]),
        object_offsets=np.array([0, 2, 2, 2]),
    )
    masks = sample_from_row(mixed, with_masks=True).targets.masks
    assert isinstance(masks, MixedMasks) and len(masks) == 2
    assert masks.polygons.object_offsets.tolist() == [0, 2, 2]
    assert masks.runs.run_offsets.tolist() == [0, 0, 2 * 6 + 1]
    assert masks.runs.heights.tolist() == [16, 16]
    assert masks.runs.to_canvas.tolist() == [[1, 1, 0, 0]] * 2
    whole = torch.tensor([[0.0, 0.0, 20, 20]]).repeat(2, 1)
    drawn = rasterize_masks(masks, torch.arange(2), whole, 20)[:, :16].numpy()
    polygons = [FIRST.ravel().tolist(), SECOND.ravel().tolist()]
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, 16, 20)))
    assert np.array_equal(drawn[0], expected)
    assert np.array_equal(drawn[1], bitmap)


@pytest.mark.parametrize("counts", ["", "04", "0d3", "junk~~~~"])
def test_a_damaged_run_length_mask_is_an_error(counts):
    with pytest.raises(DecodeError, match="run-length mask"):
        sample_from_row(row(rle=(None, "crowd", counts)), with_masks=True)


def test_masks_are_left_out_unless_requested():
    assert sample_from_row(row(), with_masks=False).targets.masks is None


@pytest.mark.parametrize("bad", [{"image_bytes": b"junk"}, {"size": ImageSize(20, 16)}])
def test_a_damaged_image_or_a_wrong_size_is_an_error(bad):
    with pytest.raises(DecodeError):
        sample_from_row(row(**bad), with_masks=True)


def test_a_row_without_objects_gives_empty_targets():
    empty = row(
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        vertices=np.zeros((0, 2)),
        polygon_offsets=np.zeros(1, np.int64),
        object_offsets=np.zeros(1, np.int64),
        rle=(),
        iscrowd=np.zeros(0, bool),
    )
    targets = sample_from_row(empty, with_masks=True).targets
    assert targets.boxes.shape == (0, 4) and len(targets.masks) == 0


def test_a_blank_sample_has_the_size_but_no_objects():
    sample = blank_sample(ImageSize(5, 7), with_masks=True)
    assert tuple(sample.pixels.shape) == (5, 7, 3)
    assert len(sample.targets) == len(sample.targets.masks) == 0


def test_crowd_regions_lose_their_keypoints_with_their_boxes(keypoint_rows):
    row = next(row for row in keypoint_rows if len(row.labels) > 1)
    crowd = np.arange(len(row.labels)) == 0
    sample = sample_from_row(replace(row, iscrowd=crowd), True, 4)
    assert sample.targets.keypoints.dtype == torch.float32
    np.testing.assert_allclose(sample.targets.keypoints, row.keypoints[1:], rtol=1e-6)


def test_keypoints_are_left_out_unless_requested_and_empty_without_objects(keypoint_rows):
    row = keypoint_rows[0]
    assert sample_from_row(row, with_masks=True).targets.keypoints is None
    assert blank_sample(ImageSize(40, 60), with_masks=False).targets.keypoints is None
    all_crowd = replace(row, iscrowd=np.ones(len(row.labels), dtype=bool))
    assert sample_from_row(all_crowd, False, 4).targets.keypoints.shape == (0, 4, 3)
    assert blank_sample(ImageSize(40, 60), False, 4).targets.keypoints.shape == (0, 4, 3)


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
    bitmap = np.zeros((16, 20), np.uint8, order="F")
    bitmap[10:14, 4:10] = 1
    counts = coco_masks.encode(bitmap)["counts"].decode()
    mixed = row(
        rle=(None, "crowd", counts),
        vertices=np.concatenate([FIRST, SECOND]),
        polygon_offsets=np.array([0, 3, 7]),
        object_offsets=np.array([0, 2, 2, 2]),
        keypoints=np.arange(27, dtype=float).reshape(3, 3, 3),
    )
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
