"""The keypoint head by itself: layers, targets, loss and the way back to the image."""

import math

import pytest
import torch
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from model.heads.keypoint import (
    KeypointHead,
    KeypointTargets,
    find_keypoints,
    keypoint_loss,
    keypoint_targets,
)
from model.heads.training_rois import TrainingRois
from model.structures import Targets

SIDE = 56


def persons(*objects):
    """Targets of boxes whose size does not matter here, each with its keypoints."""
    points = torch.tensor(objects, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]]).repeat(len(points), 1)
    return Targets(boxes, torch.ones(len(points), dtype=torch.int64), keypoints=points)


def nobody(keypoints):
    return Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        keypoints=torch.zeros(0, keypoints, 3),
    )


def rois_of(images, boxes, truths, is_meant=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    return TrainingRois(
        torch.cat((torch.tensor(images, dtype=torch.float32)[:, None], boxes), 1),
        torch.ones(len(boxes), dtype=torch.int64),
        boxes,
        torch.tensor(truths, dtype=torch.int64),
        is_meant=torch.ones(len(boxes), dtype=torch.bool) if is_meant is None else is_meant,
        positive_slots=torch.arange(len(boxes)),
    )


def random_boxes(count, largest):
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(count, 2, generator=generator) ** 3 * largest
    return torch.cat((corners, corners + sides), 1)


def test_layers_and_initialisation_are_torchvision_s():
    torch.manual_seed(0)
    head = KeypointHead(8, 32, 3, keypoints=5)
    body, predictor = KeypointRCNNHeads(8, (32,) * 3), KeypointRCNNPredictor(32, 5)
    for own, other in zip(
        head.parameters(), [*body.parameters(), *predictor.parameters()], strict=True
    ):
        assert own.shape == other.shape
        # thousands of draws
        torch.testing.assert_close(own.std(), other.std(), rtol=0.1, atol=0)
        other.data.copy_(own)
    pooled = torch.randn(4, 8, 14, 14)
    expected = predictor(body(pooled))
    assert expected.shape == (4, 5, SIDE, SIDE)
    torch.testing.assert_close(head(pooled), expected)
    with torch.inference_mode():
        torch.testing.assert_close(head(pooled), expected, rtol=1e-4, atol=1e-5)


def test_a_point_falls_into_the_cell_it_divides_into_and_on_the_far_border_into_the_last():
    # A cell of this box is 2 pixels wide and 1 high.
    box = [10, 20, 122, 76]
    points = [
        [10, 20, 2],  # the near corner
        [122, 76, 2],  # the far corner: 56 and 56, were it not for the rule
        [122, 30.5, 2],
        [11.9, 21, 1],  # hidden points count too
        [12, 20.99, 2],
    ]
    found = keypoint_targets([persons(points)], rois_of([0], [box], [0]), 5, SIDE)
    assert found.is_meant.all()
    cells = [(0, 0), (55, 55), (10, 55), (1, 0), (0, 1)]
    assert found.places.tolist() == [[row * SIDE + column for row, column in cells]]


def test_points_outside_or_not_labelled_mean_nothing():
    box = [10, 20, 122, 76]
    points = [
        [9.99, 30, 2],
        [122.01, 30, 2],
        [50, 19.99, 2],
        [50, 76.01, 2],
        [50, 40, 0],
        [122, 76.01, 2],  # on one border, beyond the other
    ]
    found = keypoint_targets([persons(points)], rois_of([0], [box], [0]), 6, SIDE)
    assert not found.is_meant.any()
    assert (found.places == 0).all()


def test_each_roi_has_the_points_of_its_own_object_whatever_image_it_is_in():
    first = persons([[1, 1, 2]], [[2, 1, 2]])
    last = persons([[3, 1, 2]])
    rois = rois_of([0, 2, 0, 1], [[0, 0, SIDE, SIDE]] * 4, [1, 0, 0, 0])
    rois = TrainingRois(
        rois.rois,
        rois.labels,
        rois.truth_boxes,
        rois.truths,
        is_meant=torch.tensor([True, True, True, False]),  # the image without people
        positive_slots=rois.positive_slots,
    )
    found = keypoint_targets([first, nobody(1), last], rois, 1, SIDE)
    assert found.is_meant[:, 0].tolist() == [True, True, True, False]
    assert (found.places[:, 0] % SIDE).tolist() == [2, 3, 1, 0]


def test_slots_without_a_box_are_no_error():
    targets = [nobody(2), persons([[0, 0, 2], [5, 5, 2]])]
    rois = rois_of([0, 1], [[0] * 4, [0] * 4], [0, 0], torch.zeros(2, dtype=torch.bool))
    found = keypoint_targets(targets, rois, 2, SIDE)
    assert not found.is_meant.any()
    assert (found.places == 0).all()


def test_targets_are_torchvision_s():
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(60, 150)
    near, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    places = near + sides * (torch.rand(60, 7, 2, generator=generator) * 1.4 - 0.2)
    places[:20, 0, 0], places[10:30, 1, 1] = boxes[:20, 2], boxes[10:30, 3]
    seen = torch.randint(0, 3, (60, 7, 1), generator=generator)
    points = torch.cat((places, seen), 2)
    found = keypoint_targets(
        [persons(*points.tolist())], rois_of([0] * 60, boxes, range(60)), 7, SIDE
    )
    wanted, valid = keypoints_to_heatmap(points, boxes, SIDE)
    assert 50 < found.is_meant.sum() < 300
    assert found.is_meant.equal(valid.bool())
    assert found.places.equal(wanted)


def test_targets_without_or_with_other_keypoints_are_refused_with_the_remedy():
    rois = rois_of([0], [[0, 0, 9, 9]], [0])
    bare = Targets(torch.zeros(1, 4), torch.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"set model\.keypoint to null"):
        keypoint_targets([bare], rois, 2, SIDE)
    with pytest.raises(ValueError, match="1 keypoints per object, the keypoint head 2"):
        keypoint_targets([persons([[1, 1, 2]])], rois, 2, SIDE)


def test_the_loss_is_the_surprise_at_the_place_of_each_point_that_counts():
    heatmaps = torch.zeros(2, 3, 4, 4)
    heatmaps[0, 0, 1, 2] = math.log(16 - 15 / 16) + math.log(16)  # 15 others weigh 1 each
    heatmaps[1] = 7.0
    targets = KeypointTargets(
        torch.tensor([[6, 0, 5], [15, 3, 9]]),
        torch.tensor([[True, False, True], [False, True, False]]),
    )
    term = keypoint_loss(heatmaps, targets)
    weight = 16 * (16 - 15 / 16)
    expected = math.log((weight + 15) / weight) + 2 * math.log(16)
    assert term.count == 3
    assert term.total.item() == pytest.approx(expected, rel=1e-6)


def test_no_positives_still_train_the_head_with_zero():
    head = KeypointHead(8, 16, 2, keypoints=5)
    heatmaps = head(torch.zeros(0, 8, 14, 14))
    assert heatmaps.shape == (0, 5, SIDE, SIDE)
    none = rois_of([], torch.zeros(0, 4), [])
    term = keypoint_loss(heatmaps, keypoint_targets([nobody(5)], none, 5, SIDE))
    assert term.total == term.count == 0
    term.total.backward()
    assert all((p.grad == 0).all() for p in head.parameters())


@pytest.mark.parametrize("largest", [3, 300], ids=["thin", "large"])
def test_keypoints_are_where_torchvision_finds_them(largest):
    head = KeypointHead(8, 16, 1, keypoints=5)
    boxes = random_boxes(12, largest)
    with torch.inference_mode():
        heatmaps = 10 * head(torch.randn(12, 8, 14, 14))
        expected, scores = heatmaps_to_keypoints(heatmaps, boxes)
        found = find_keypoints(heatmaps, boxes)
    assert boxes[:, 2].max() > largest / 2
    torch.testing.assert_close(found[..., :2], expected[..., :2], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., 2], scores)  # sums in another order, fp32


def test_a_peak_is_found_in_the_middle_of_its_cell_and_targets_lead_back_to_it():
    # 3 pixels per cell, so that one of them is its middle; at the border the cubic leans outwards.
    box = torch.tensor([[10.25, 20.5, 10.25 + 3 * SIDE, 20.5 + 3 * SIDE]])
    cells = torch.tensor([[1, 1], [7, 40], [54, 54], [30, 31]])
    heatmaps = torch.zeros(1, 4, SIDE, SIDE)
    heatmaps[0, torch.arange(4), cells[:, 1], cells[:, 0]] = 5
    found = find_keypoints(heatmaps, box)
    torch.testing.assert_close(found[0, :, :2], box[0, :2] + 3 * (cells + 0.5))
    # The cubic passes through what it interpolates.
    torch.testing.assert_close(found[0, :, 2], torch.full((4,), 5.0))
    again = keypoint_targets([persons(found[0].tolist())], rois_of([0], box, [0]), 4, SIDE)
    assert again.places[0].equal(heatmaps[0].flatten(1).argmax(1))


def test_no_boxes_have_no_keypoints():
    assert find_keypoints(torch.zeros(0, 5, SIDE, SIDE), torch.zeros(0, 4)).shape == (0, 5, 3)


def test_autocast_moves_no_keypoint():
    heatmaps = torch.randn(3, 5, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = find_keypoints(heatmaps, random_boxes(3, 200))
    with torch.autocast("cpu", torch.bfloat16):
        assert find_keypoints(heatmaps, random_boxes(3, 200)).equal(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_finds_the_same_places():
    heatmaps = torch.randn(8, 5, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(8, 200)
    got = find_keypoints(heatmaps.cuda(), boxes.cuda()).cpu()
    torch.testing.assert_close(got, find_keypoints(heatmaps, boxes), atol=1e-3, rtol=1e-4)
