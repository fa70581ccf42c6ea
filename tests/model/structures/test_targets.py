import pytest
import torch

from model.structures import Targets

BOXES = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 8.0]])
LABELS = torch.tensor([1, 2])


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 2), (1, 5, 3), (2, 5, 3, 1)])
def test_keypoints_of_another_shape_are_rejected(shape):
    with pytest.raises(ValueError, match=r"keypoints must be \(2, P, 3\)"):
        Targets(BOXES, LABELS, keypoints=torch.zeros(shape))


def test_flat_boxes_are_rejected_with_the_shape_of_an_image_without_objects():
    with pytest.raises(ValueError, match=r"got \(0,\)\. An image without objects needs \(0, 4\)"):
        Targets(torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def test_keypoints_move_to_a_device_with_the_boxes():
    targets = Targets(BOXES, LABELS, keypoints=torch.ones(2, 5, 3), image_id=3)
    moved = targets.to(torch.device("meta"))
    assert moved.keypoints.device.type == moved.boxes.device.type == "meta"
    assert moved.image_id == 3
    assert Targets(BOXES, LABELS).to(torch.device("meta")).keypoints is None
