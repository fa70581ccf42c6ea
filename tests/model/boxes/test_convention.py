"""Boxes that end on their last pixel: numbers computed by hand in Detectron's own coordinates."""

import pytest
import torch

from model.boxes.coding import BoxCoder
from model.boxes.convention import CONTINUOUS, BoxConvention
from model.boxes.operations import image_limits
from model.detections import Detections
from model.structures import ImageSize, Proposals
from ops_cuda import paste_masks

INCLUSIVE = BoxConvention(inclusive=True)
CPU = torch.device("cpu")
# Added to a box of Detectron, which ends on its last pixel, to store it.
TO_STORED = torch.tensor([0.0, 0, 1, 1])


def test_the_coder_adds_the_1_that_detectron_adds_to_sides():
    # Widths 10 - 1 + 1 and 20 - 6 + 1; centers 1 + 5 and 6 + 7.5; heights 4 and 8; 2 + 2 and 3 + 4.
    reference, box = torch.tensor([1.0, 2, 10, 5]), torch.tensor([6.0, 3, 20, 10])
    deltas = BoxCoder().encode(box + TO_STORED, reference + TO_STORED)
    expected = torch.tensor([7.5 / 10, 3 / 4, 1.5, 2.0])
    expected[2:] = expected[2:].log()
    torch.testing.assert_close(deltas, expected)
    torch.testing.assert_close(BoxCoder().decode(deltas, reference + TO_STORED) - TO_STORED, box)


def test_inclusive_boxes_are_clipped_to_the_first_and_last_pixel():
    limits = image_limits([ImageSize(30, 40)], CPU)
    boxes = torch.tensor([[-5.0, 3, 50, 9], [-9, -9, -3, -2], [60, 40, 70, 50], [2, 3, 4, 5]])
    expected = torch.tensor([[0.0, 3, 39, 9], [0, 0, 0, 0], [39, 29, 39, 29], [2, 3, 4, 5]])
    torch.testing.assert_close(INCLUSIVE.clip(boxes + TO_STORED, limits) - TO_STORED, expected)
    assert CONTINUOUS.clip(boxes, limits)[1:3].tolist() == [[0, 0, 0, 0], [40, 30, 40, 30]]


def test_scaling_inclusive_boxes_scales_the_index_of_the_last_pixel():
    boxes, old, new = torch.tensor([[10.0, 20, 39, 59]]), ImageSize(60, 80), ImageSize(90, 40)
    scaled = INCLUSIVE.scale(boxes + TO_STORED, old, new) - TO_STORED
    assert scaled.tolist() == [[5, 30, 19.5, 88.5]]
    assert INCLUSIVE.scale(torch.zeros(0, 4), old, new).shape == (0, 4)


def test_source_boxes_end_on_the_last_pixel():
    roi = torch.tensor([[1.0, 4, 5, 20, 30]])
    assert INCLUSIVE.source_boxes(roi).tolist() == [[1, 4, 5, 19, 29]]
    assert CONTINUOUS.source_boxes(roi).equal(roi)


def test_inclusive_anchors_that_cross_the_border_are_not_sampled():
    limits = image_limits([ImageSize(30, 40), ImageSize(50, 60)], CPU)
    anchors = torch.tensor(
        [[0.0, 0, 39, 29], [-0.5, 0, 20, 20], [0, 0, 40, 20], [0, 0, 39.5, 20], [5, 5, 20, 30]]
    )
    inside = INCLUSIVE.anchors_inside(anchors + TO_STORED, limits)
    assert inside.tolist() == [[True, False, False, True, False], [True, False, True, True, True]]
    assert CONTINUOUS.anchors_inside(anchors, limits) is None


def proposals_with(logits):
    """Return proposals with these logits of each image, padded with zeros."""
    rows = max(map(len, logits))
    padded = torch.tensor([[*row, *[0.0] * (rows - len(row))] for row in logits])
    valid = torch.arange(rows) < torch.tensor([len(row) for row in logits])[:, None]
    boxes = torch.arange(padded.numel()).view(*padded.shape, 1).float() + torch.tensor([1, 1, 5, 5])
    return Proposals(boxes * valid[..., None], valid.sum(1), padded)


def test_inclusive_training_proposals_are_limited_per_batch():
    proposals = proposals_with([[9.0, 5.0, 1.0], [7.0, 6.0, -3.0], [-8.0]])
    best = INCLUSIVE.limit_training_proposals(proposals, 4)
    assert best.counts.tolist() == [2, 2, 0]
    assert best.logits.tolist() == [[9, 5, 0], [7, 6, 0], [0, 0, 0]]
    assert best.boxes[:2, :2].equal(proposals.boxes[:2, :2])
    assert best.boxes[:, 2].eq(0).all()
    # There are 7 proposals: padding does not count as a logit of 0.
    everything = INCLUSIVE.limit_training_proposals(proposals, 100)
    assert everything.counts.equal(proposals.counts)
    assert everything.boxes.equal(proposals.boxes)
    assert INCLUSIVE.limit_training_proposals(proposals, 6).counts.tolist() == [3, 3, 0]
    assert CONTINUOUS.limit_training_proposals(proposals, 4) is proposals


@pytest.mark.parametrize("paste", ["padded", "grid"])
def test_masks_of_inclusive_boxes_are_pasted_in_the_boxes_of_their_convention(paste):
    masks = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0))
    source = torch.tensor([[3.2, 4.9, 40.1, 30.2], [-6.0, 2, 20, 60], [10.5, 10.5, 13.5, 12.5]])
    detections = Detections(
        source + TO_STORED,
        torch.ones(3),
        torch.ones(3, dtype=torch.int64),
        masks,
        ImageSize(50, 60),
        mask_paste=INCLUSIVE.mask_paste(paste),
    )
    # Padded masks: whole pixels from Detectron's corners. By a grid: the box as stored.
    boxes = source if paste == "padded" else source + TO_STORED
    expected = paste_masks(masks, boxes, 50, 60, 0.5, grid=paste == "grid")
    assert detections.bitmaps().equal(expected)
    counts = [len(one["counts"]) for one in detections.rle()]
    assert min(counts) > 5
    assert CONTINUOUS.mask_paste(paste) == paste
