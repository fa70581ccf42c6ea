import pytest
import torch

from model.boxes.coding import BoxCoder
from model.boxes.selection import (
    Candidates,
    candidates_above,
    select_boxes,
    select_proposals_as_boxes,
)
from model.structures import ImageSize, Proposals


@pytest.mark.parametrize("boxes_per_roi", [1, 4])
def test_a_box_shared_by_all_classes_equals_the_same_box_for_each_class(boxes_per_roi):
    logits = torch.tensor([[0.0, 3.0, 2.9, -9.0]])
    deltas = torch.tensor([[[1.0, -2.0, 0.5, 0.0]]]).expand(-1, boxes_per_roi, -1)
    rois, valid = torch.tensor([[0.0, 10, 10, 30, 50]]), torch.tensor([True])
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    candidates = candidates_above(0.05, logits, deltas, rois, valid, coder)
    selected = select_boxes(candidates, [ImageSize(100, 100)], nms_iou=0.5, max_detections=100)
    assert selected.labels.tolist() == [1, 2]
    # 20 x 40 pixels: a tenth to the right, two tenths up, exp(0.1) wider.
    half = 10 * torch.tensor(0.1).exp().item()
    expected = torch.tensor([22 - half, 22 - 20, 22 + half, 22 + 20])
    for box in selected.boxes:
        torch.testing.assert_close(box, expected)


def test_padding_gives_no_candidates():
    logits, deltas = torch.tensor([[0.0, 3.0]]).repeat(2, 1), torch.zeros(2, 2, 4)
    rois = torch.tensor([[0.0, 10, 10, 30, 50], [1.0, 0, 0, 0, 0]])
    candidates = candidates_above(
        0.05, logits, deltas, rois, torch.tensor([True, False]), BoxCoder()
    )
    assert candidates.images.tolist() == [0]


def test_boxes_outside_their_image_are_clipped_away():
    candidates = Candidates(
        torch.tensor([[5.0, 5, 25, 15], [21, 5, 30, 15]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([0, 0]),
        torch.tensor([1, 1]),
    )
    selected = select_boxes(candidates, [ImageSize(10, 20)], nms_iou=0.5, max_detections=100)
    assert selected.boxes.tolist() == [[5, 5, 20, 10]]
    assert selected.counts == [1]


def test_proposals_become_boxes_of_class_1_without_the_padding():
    boxes = torch.tensor([[[1.0, 2, 3, 4], [0, 0, 0, 0]], [[5, 6, 7, 8], [6, 6, 9, 9]]])
    logits = torch.tensor([[0.0, 0.0], [2.0, -2.0]])
    selected = select_proposals_as_boxes(Proposals(boxes, torch.tensor([1, 2]), logits))
    assert selected.rois.tolist() == [[0, 1, 2, 3, 4], [1, 5, 6, 7, 8], [1, 6, 6, 9, 9]]
    assert selected.scores.equal(torch.tensor([0.0, 2.0, -2.0]).sigmoid())
    assert selected.labels.tolist() == [1, 1, 1]
    assert selected.counts == [1, 2]
    with pytest.raises(ValueError, match="without logits have no scores"):
        select_proposals_as_boxes(Proposals(boxes, torch.tensor([1, 2])))
