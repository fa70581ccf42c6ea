"""Boxes that end on their last pixel: numbers worked by hand in Detectron's own coordinates."""

import pytest
import torch

from model.boxes.anchors import AnchorGrid
from model.boxes.coding import BoxCoder
from model.boxes.convention import CONTINUOUS, BoxGeometry, anchors_from_stride
from model.boxes.operations import image_limits
from model.detections import Detections
from model.structures import ImageSize, Proposals
from ops_cuda import paste_masks

INCLUSIVE = BoxGeometry(inclusive=True)
CPU = torch.device("cpu")
# From a box as Detectron writes it to the same box as it is held.
BEHIND = torch.tensor([0.0, 0, 1, 1])


def test_the_coder_adds_the_one_that_detectron_adds():
    # widths 10 - 1 + 1 and 20 - 6 + 1; centres 1 + 5 and 6 + 7.5; heights 4 and 8; 2 + 2 and 3 + 4
    reference, box = torch.tensor([1.0, 2, 10, 5]), torch.tensor([6.0, 3, 20, 10])
    deltas = BoxCoder().encode(box + BEHIND, reference + BEHIND)
    expected = torch.tensor([7.5 / 10, 3 / 4, 1.5, 2.0])
    expected[2:] = expected[2:].log()
    torch.testing.assert_close(deltas, expected)
    torch.testing.assert_close(BoxCoder().decode(deltas, reference + BEHIND) - BEHIND, box)


def test_boxes_are_cut_to_the_first_and_the_last_pixel():
    limits = image_limits([ImageSize(30, 40)], CPU)
    theirs = torch.tensor([[-5.0, 3, 50, 9], [-9, -9, -3, -2], [60, 40, 70, 50], [2, 3, 4, 5]])
    expected = torch.tensor([[0.0, 3, 39, 9], [0, 0, 0, 0], [39, 29, 39, 29], [2, 3, 4, 5]])
    torch.testing.assert_close(INCLUSIVE.clip(theirs + BEHIND, limits) - BEHIND, expected)
    assert CONTINUOUS.clip(theirs, limits)[1:3].tolist() == [[0, 0, 0, 0], [40, 30, 40, 30]]


def test_the_last_pixel_is_what_is_scaled():
    theirs, old, new = torch.tensor([[10.0, 20, 39, 59]]), ImageSize(60, 80), ImageSize(90, 40)
    scaled = INCLUSIVE.scale(theirs + BEHIND, old, new) - BEHIND
    assert scaled.tolist() == [[5, 30, 19.5, 88.5]]
    assert INCLUSIVE.scale(torch.zeros(0, 4), old, new).shape == (0, 4)


def test_rois_are_pooled_up_to_their_last_pixel():
    roi = torch.tensor([[1.0, 4, 5, 20, 30]])
    assert INCLUSIVE.sampled(roi).tolist() == [[1, 4, 5, 19, 29]]
    assert CONTINUOUS.sampled(roi).equal(roi)


def test_anchors_that_cross_the_border_are_not_learned_from():
    limits = image_limits([ImageSize(30, 40), ImageSize(50, 60)], CPU)
    theirs = torch.tensor(
        [[0.0, 0, 39, 29], [-0.5, 0, 20, 20], [0, 0, 40, 20], [0, 0, 39.5, 20], [5, 5, 20, 30]]
    )
    inside = INCLUSIVE.inside(theirs + BEHIND, limits)
    assert inside.tolist() == [[True, False, False, True, False], [True, False, True, True, True]]
    assert CONTINUOUS.inside(theirs, limits) is None


def proposals_of(logits):
    rows = max(map(len, logits))
    filled = torch.tensor([[*row, *[0.0] * (rows - len(row))] for row in logits])
    present = torch.arange(rows) < torch.tensor([len(row) for row in logits])[:, None]
    boxes = torch.arange(filled.numel()).view(*filled.shape, 1).float() + torch.tensor([1, 1, 5, 5])
    return Proposals(boxes * present[..., None], present.sum(1), filled)


def test_a_batch_shares_its_training_proposals():
    proposals = proposals_of([[9.0, 5.0, 1.0], [7.0, 6.0, -3.0], [-8.0]])
    best = INCLUSIVE.training_proposals(proposals, 4)
    assert best.counts.tolist() == [2, 2, 0]
    assert best.logits.tolist() == [[9, 5, 0], [7, 6, 0], [0, 0, 0]]
    assert best.boxes[:2, :2].equal(proposals.boxes[:2, :2])
    assert best.boxes[:, 2].eq(0).all()
    # There are 7: rows that hold none do not count as logits of 0.
    everything = INCLUSIVE.training_proposals(proposals, 100)
    assert everything.counts.equal(proposals.counts)
    assert everything.boxes.equal(proposals.boxes)
    assert INCLUSIVE.training_proposals(proposals, 6).counts.tolist() == [3, 3, 0]
    assert CONTINUOUS.training_proposals(proposals, 4) is proposals


def test_anchors_are_those_of_the_first_faster_r_cnn():
    # Widths for 16 x 16: sqrt(512) = 22.6 is 23, 16, sqrt(128) = 11.3 is 11; heights 11.5, even 12,
    # 16 and 22. Eight times those about (7.5, 7.5) reach from -84 to 99.
    theirs = anchors_from_stride([128.0, 256.0], (0.5, 1.0, 2.0), 16) - BEHIND
    assert theirs.tolist() == [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
    ]


def test_the_grid_s_anchors_lie_a_stride_apart_from_half_a_stride_on():
    grid = AnchorGrid((32.0, 64.0), (1.0,), (4, 8), from_stride=True)
    fine, coarse = grid([ImageSize(2, 3), ImageSize(1, 2)], ImageSize(8, 12))
    assert (fine[0] - BEHIND).tolist() == [-14, -14, 17, 17]  # about 1.5
    assert (fine[5] - fine[0]).tolist() == [8, 4, 8, 4]
    assert (coarse[1] - BEHIND).tolist() == [-20, -28, 43, 35]  # about 11.5, 3.5


@pytest.mark.parametrize("rule", ["padded", "grid"])
def test_masks_come_to_the_image_by_the_rule(rule):
    masks = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0))
    theirs = torch.tensor([[3.2, 4.9, 40.1, 30.2], [-6.0, 2, 20, 60], [10.5, 10.5, 13.5, 12.5]])
    found = Detections(
        theirs + BEHIND,
        torch.ones(3),
        torch.ones(3, dtype=torch.int64),
        masks,
        ImageSize(50, 60),
        mask_paste=INCLUSIVE.mask_paste(rule),
    )
    # Whole pixels from Detectron's own corners; a grid over the box as it is held.
    boxes = theirs if rule == "padded" else theirs + BEHIND
    assert found.bitmaps().equal(paste_masks(masks, boxes, 50, 60, 0.5, grid=rule == "grid"))
    counts = [len(one["counts"]) for one in found.rle()]
    assert min(counts) > 5
    assert CONTINUOUS.mask_paste(rule) == rule
