import math

import pytest
import torch
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import keypoints_to_heatmap

from model.config import Conventions
from model.heads.keypoint import (
    KeypointHead,
    KeypointTargets,
    keypoint_loss,
    keypoint_origins,
    keypoint_targets,
)
from model.structures import ImageBatch, ImageSize
from tests.model.heads.rois import positive_rois

SIDE = 56
# 2 x 1 pixels per heatmap cell.
BOX = [10, 20, 122, 76]


def make_targets(objects, rois, origins=None):
    """Return the targets of objects given by their keypoints, P rows of x, y and visibility."""
    keypoints = torch.as_tensor(objects, dtype=torch.float32)
    # The row of zeros that ends the targets of a batch.
    keypoints = torch.cat((keypoints, torch.zeros_like(keypoints[:1])))
    images = int(rois.rois[:, 0].max()) + 1 if len(rois.rois) else 1
    return keypoint_targets(
        keypoints, rois, SIDE, torch.zeros(images, 2) if origins is None else origins
    )


def random_boxes(count, largest):
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(count, 2, generator=generator) ** 3 * largest
    return torch.cat((corners, corners + sides), 1)


def test_layers_and_initialization_match_torchvision():
    torch.manual_seed(0)
    head = KeypointHead(8, 32, 3, num_keypoints=5)
    body, predictor = KeypointRCNNHeads(8, (32,) * 3), KeypointRCNNPredictor(32, 5)
    for parameter, reference in zip(
        head.parameters(), [*body.parameters(), *predictor.parameters()], strict=True
    ):
        assert parameter.shape == reference.shape
        # Thousands of draws.
        torch.testing.assert_close(parameter.std(), reference.std(), rtol=0.1, atol=0)
        reference.data.copy_(parameter)
    pooled = torch.randn(4, 8, 14, 14)
    expected = predictor(body(pooled))
    assert expected.shape == (4, 5, SIDE, SIDE)
    torch.testing.assert_close(head(pooled), expected)
    with torch.inference_mode():
        torch.testing.assert_close(head(pooled), expected, rtol=1e-4, atol=1e-5)


def test_a_keypoint_is_in_the_cell_that_contains_it_and_on_the_far_border_in_the_last_cell():
    keypoints = [
        [10, 20, 2],  # near corner
        [122, 76, 2],  # far corner, which would be cell 56, 56
        [122, 30.5, 2],
        [11.9, 21, 1],  # hidden keypoints are targets too
        [12, 20.99, 2],
    ]
    targets = make_targets([keypoints], positive_rois([0], [BOX], [0]))
    assert targets.valid.all()
    cells = [(0, 0), (55, 55), (10, 55), (1, 0), (0, 1)]
    assert targets.cells.tolist() == [[row * SIDE + column for row, column in cells]]


def test_keypoints_outside_the_box_or_without_a_label_are_not_valid():
    keypoints = [
        [9.99, 30, 2],
        [122.01, 30, 2],
        [50, 19.99, 2],
        [50, 76.01, 2],
        [50, 40, 0],
        [122, 76.01, 2],  # on one border, beyond the other
    ]
    targets = make_targets([keypoints], positive_rois([0], [BOX], [0]))
    assert not targets.valid.any()
    assert (targets.cells == 0).all()


def test_each_roi_has_the_keypoints_of_its_own_object():
    # Image 0 has two objects, image 1 none, image 2 one.
    objects = [[[1, 1, 2]], [[2, 1, 2]], [[3, 1, 2]]]
    rois = positive_rois(
        [0, 2, 0, 1], [[0, 0, SIDE, SIDE]] * 4, [1, 2, 0, 2], valid=[True, True, True, False]
    )
    targets = make_targets(objects, rois)
    assert targets.valid[:, 0].tolist() == [True, True, True, False]
    assert (targets.cells[:, 0] % SIDE).tolist() == [2, 3, 1, 0]


def test_padding_rois_without_extent_have_no_valid_keypoints():
    # Image 0 has no objects.
    rois = positive_rois([0, 1], [[0] * 4, [0] * 4], [0, 0], valid=[False, False])
    targets = make_targets([[[0, 0, 2], [5, 5, 2]]], rois)
    assert not targets.valid.any()
    assert (targets.cells == 0).all()


def test_targets_match_torchvision():
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(60, 150)
    near, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    xy = near + sides * (torch.rand(60, 7, 2, generator=generator) * 1.4 - 0.2)
    xy[:20, 0, 0], xy[10:30, 1, 1] = boxes[:20, 2], boxes[10:30, 3]
    visibility = torch.randint(0, 3, (60, 7, 1), generator=generator)
    keypoints = torch.cat((xy, visibility), 2)
    targets = make_targets(keypoints, positive_rois([0] * 60, boxes, range(60)))
    expected, valid = keypoints_to_heatmap(keypoints, boxes, SIDE)
    assert 50 < targets.valid.sum() < 300
    assert targets.valid.equal(valid.bool())
    assert targets.cells.equal(expected)


def test_the_loss_is_the_cross_entropy_at_the_cell_of_each_valid_keypoint():
    heatmaps = torch.zeros(2, 3, 4, 4)
    # A weight of 16 * (16 - 15 / 16) in the softmax; the other 15 cells weigh 1 each.
    heatmaps[0, 0, 1, 2] = math.log(16 - 15 / 16) + math.log(16)
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


def test_without_positives_the_loss_and_all_gradients_are_zero():
    head = KeypointHead(8, 16, 2, num_keypoints=5)
    heatmaps = head(torch.zeros(0, 8, 14, 14))
    assert heatmaps.shape == (0, 5, SIDE, SIDE)
    none = positive_rois([], torch.zeros(0, 4), [])
    term = keypoint_loss(heatmaps, make_targets(torch.zeros(1, 5, 3), none))
    assert term.total == term.count == 0
    term.total.backward()
    assert all((p.grad == 0).all() for p in head.parameters())


@pytest.mark.parametrize(("coordinates", "factor"), [("continuous", 0.0), ("pixel_numbers", 1.0)])
def test_pixel_numbers_have_their_origin_half_a_pixel_into_the_original_image(coordinates, factor):
    sizes = (ImageSize(64, 96), ImageSize(60, 30))
    original_sizes = (ImageSize(32, 32), ImageSize(60, 60))
    pixels = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    origin = Conventions(keypoint_coordinates=coordinates).keypoint_origin
    origins = keypoint_origins(ImageBatch(pixels, sizes, original_sizes), origin)
    # Resized to three times the width and twice the height; to half the width and the same height.
    assert origins.tolist() == [[1.5 * factor, 1.0 * factor], [0.25 * factor, 0.5 * factor]]


def test_images_of_their_original_size_have_the_origin_itself():
    size = (ImageSize(50, 70),)
    images = ImageBatch(torch.zeros(1, 3, 64, 96), size, size)
    assert keypoint_origins(images, 0.5).tolist() == [[0.5, 0.5]]


def test_target_cells_are_relative_to_the_origin_of_the_image():
    objects = [[[10, 20, 2]], [[10, 20, 2]]]
    rois = positive_rois([0, 1], [[0, 0, SIDE, SIDE]] * 2, [0, 1])
    targets = make_targets(objects, rois, origins=torch.tensor([[0.0, 0.0], [1.5, 1.0]]))
    assert targets.cells[:, 0].tolist() == [20 * SIDE + 10, 19 * SIDE + 8]
