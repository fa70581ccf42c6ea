"""Rows are decoded to samples."""

from dataclasses import replace

import numpy as np
import pycocotools.mask as coco_masks
import pytest
import torch

from model.images.decode import DecodeError
from model.structures import ImageSize, MixedMasks, PolygonMasks
from model.structures.batch_masks import rasterize_masks
from pipeline.stream.samples import blank_sample, sample_from_row
from tests.pipeline.stream.rows import FIRST, SECOND, THIRD, mixed_row, row


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
    masks = sample_from_row(mixed_row(), with_masks=True).targets.masks
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
    rectangle = np.zeros((16, 20))
    rectangle[10:14, 4:10] = 1
    assert np.array_equal(drawn[1], rectangle)


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
