import pytest
import torch

from model.structures import PolygonMasks, Targets, join_targets
from model.structures.transfer import tensors_of
from tests.ops_cuda.forbid_sync import ForbidSync

CPU = torch.device("cpu")


def test_each_image_owns_the_rows_between_its_offsets_and_the_last_row_is_zero(box_targets):
    images = [
        box_targets([[1, 2, 3, 4], [5, 6, 7, 8]], [2, 1]),
        box_targets([], []),
        box_targets([], []),
        box_targets([[9, 9, 12, 12]], [3]),
        box_targets([], []),
    ]
    joined = join_targets(images, CPU)
    assert joined.offsets.tolist() == [0, 2, 2, 2, 3, 3]
    assert joined.counts == (2, 0, 0, 1, 0)
    assert joined.max_objects == 2
    assert joined.labels.tolist() == [2, 1, 3, 0]
    assert joined.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 12, 12], [0] * 4]
    assert joined.masks is None
    assert joined.keypoints is None


def test_a_batch_without_objects_has_only_the_zero_row(box_targets, with_keypoints):
    images = [with_keypoints(box_targets([], []))] * 2
    joined = join_targets(images, CPU, with_masks=True, num_keypoints=3)
    assert joined.offsets.tolist() == [0, 0, 0]
    assert joined.max_objects == 0
    assert joined.boxes.tolist() == [[0] * 4]
    assert joined.labels.tolist() == [0]
    assert len(joined.masks) == 1
    assert joined.keypoints.tolist() == [[[0] * 3] * 3]


def test_masks_and_keypoints_are_in_the_rows_of_their_boxes(box_targets, with_keypoints):
    images = [
        with_keypoints(box_targets([[1, 2, 3, 4], [5, 6, 7, 8]], [2, 1])),
        with_keypoints(box_targets([], [])),
        with_keypoints(box_targets([[9, 9, 12, 12]], [3])),
    ]
    joined = join_targets(images, CPU, with_masks=True, num_keypoints=3)
    assert joined.keypoints.shape == (4, 3, 3)
    assert joined.keypoints[:3].equal(torch.cat([image.keypoints for image in images]))
    assert not joined.keypoints[3].any()
    polygons = joined.masks.polygons
    assert len(joined.masks) == 4
    assert polygons.object_offsets.tolist() == [0, 1, 2, 3, 3]
    assert polygons.polygon_offsets.tolist() == [0, 4, 8, 12]
    corners = polygons.vertices.view(3, 4, 2)
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    assert boxes.equal(joined.boxes[:3])


def test_joining_polygons_and_keypoints_needs_no_sync(scenes, with_keypoints):
    images = [with_keypoints(scene) for scene in scenes]
    with ForbidSync():
        joined = join_targets(images, CPU, with_masks=True, num_keypoints=3)
    assert joined.counts == (2, 1)


def test_missing_masks_are_an_error_that_says_how_to_train_without_them(scenes):
    without_masks = [Targets(scene.boxes, scene.labels) for scene in scenes]
    assert join_targets(without_masks, CPU).masks is None
    with pytest.raises(ValueError, match=r"set model\.mask to null"):
        join_targets([scenes[0], without_masks[1]], CPU, with_masks=True)


def test_missing_keypoints_are_an_error_that_says_how_to_train_without_them(scenes, with_keypoints):
    with pytest.raises(ValueError, match=r"set model\.keypoint to null"):
        join_targets([with_keypoints(scenes[0]), scenes[1]], CPU, num_keypoints=3)


def test_a_number_of_keypoints_that_the_head_does_not_expect_is_rejected(scenes, with_keypoints):
    images = [with_keypoints(scene) for scene in scenes]
    with pytest.raises(ValueError, match="3 keypoints per object, the keypoint head 2"):
        join_targets(images, CPU, num_keypoints=2)


def test_an_image_without_objects_still_needs_masks_and_keypoints():
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs masks"):
        join_targets([empty], CPU, with_masks=True)
    with pytest.raises(ValueError, match="needs keypoints"):
        join_targets([empty], CPU, num_keypoints=2)


def test_the_zero_row_has_no_polygons():
    masks = PolygonMasks(torch.rand(3, 2), torch.tensor([0, 3]), torch.tensor([0, 1]))
    image = Targets(torch.rand(1, 4), torch.tensor([1]), masks)
    joined = join_targets([image], CPU, with_masks=True)
    assert joined.masks.polygons.object_offsets.tolist() == [0, 1, 1]
    assert joined.masks.runs.run_offsets.tolist() == [0, 0, 0]


def test_joined_targets_move_with_all_their_tensors(scenes, with_keypoints):
    images = [with_keypoints(scene) for scene in scenes]
    joined = join_targets(images, CPU, with_masks=True, num_keypoints=3)
    moved = joined.to(torch.device("meta"))
    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
    shapes = [[tensor.shape for tensor in tensors_of(each)] for each in (joined, moved)]
    assert shapes[0] == shapes[1]
    # boxes, labels, offsets, keypoints; three of polygons and four of runs
    assert len(shapes[0]) == 4 + 3 + 4
    assert (len(moved), moved.counts) == (2, joined.counts)
    assert moved.image_ids == tuple(image.image_id for image in images)
