"""Keypoints belong to their objects: as many, in the promised form, wherever the objects go."""

import pytest
import torch

from model.detections import Detections
from model.structures import ImageSize, Targets

BOXES = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 8.0]])
LABELS = torch.tensor([1, 2])


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 2), (1, 5, 3), (2, 5, 3, 1)])
def test_keypoints_of_another_form_are_refused(shape):
    with pytest.raises(ValueError, match=r"keypoints must be \(2, P, 3\)"):
        Targets(BOXES, LABELS, keypoints=torch.zeros(shape))


def test_keypoints_of_targets_go_where_the_boxes_go():
    targets = Targets(BOXES, LABELS, keypoints=torch.ones(2, 5, 3), image_id=3)
    moved = targets.to(torch.device("meta"))
    assert moved.keypoints.device.type == moved.boxes.device.type == "meta"
    assert moved.image_id == 3
    assert Targets(BOXES, LABELS).to(torch.device("meta")).keypoints is None


def test_keypoints_of_detections_stay_with_their_boxes():
    points = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
    scores = torch.tensor([0.9, 0.3])
    found = Detections(BOXES, scores, LABELS, None, ImageSize(9, 9), keypoints=points)
    assert torch.equal(found.above(0.5).keypoints, points[:1])
    assert torch.equal(found[torch.tensor([1, 0])].keypoints, points.flip(0))
    assert found.to("meta").keypoints.device.type == "meta"
