import pytest
import torch

from model.structures import Proposals


def test_valid_marks_the_rows_that_are_not_padding_and_rois_hold_the_image_of_each_row():
    boxes = torch.tensor([[[1.0, 2, 3, 4], [0, 0, 0, 0]], [[5, 6, 7, 8], [6, 6, 9, 9]]])
    proposals = Proposals(boxes, torch.tensor([1, 2]))
    assert proposals.valid().tolist() == [[True, False], [True, True]]
    rows = [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [1, 5, 6, 7, 8], [1, 6, 6, 9, 9]]
    assert proposals.rois().tolist() == rows


def test_an_image_without_proposals_has_no_valid_rows():
    proposals = Proposals(torch.zeros(2, 3, 4), torch.tensor([0, 3]))
    assert proposals.valid().tolist() == [[False] * 3, [True] * 3]
    assert Proposals(torch.zeros(2, 0, 4), torch.tensor([0, 0])).valid().shape == (2, 0)


def test_shapes_of_boxes_counts_and_logits_must_agree():
    with pytest.raises(ValueError, match=r"boxes must be \(B, N, 4\); got \(2, 4\)"):
        Proposals(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(ValueError, match=r"counts must be \(2,\), one per image; got \(3,\)"):
        Proposals(torch.zeros(2, 3, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"logits must be \(2, 3\) like the boxes; got \(2, 4\)"):
        Proposals(torch.zeros(2, 3, 4), torch.zeros(2), torch.zeros(2, 4))
