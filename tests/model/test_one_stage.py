"""RetinaNet as a detector; its head and losses are tested in ``retinanet``."""

import pytest
import torch

from model import build_detector
from model.boxes.selection import Candidates
from model.structures import ImageSize
from tests.model.detector_kinds import KINDS


@pytest.fixture
def retinanet(tiny_config):
    torch.manual_seed(0)
    return build_detector(tiny_config(**KINDS["retinanet"].settings)).eval()


@torch.no_grad()
def test_maps_are_p3_to_p7(retinanet, scenes, make_batch):
    features = retinanet.features(make_batch(scenes, canvas=ImageSize(128, 128)))
    assert retinanet.strides == (8, 16, 32, 64, 128)
    assert [feature.shape[-1] for feature in features] == [16, 8, 4, 2, 1]


@torch.no_grad()
def test_nms_is_within_each_class_and_up_to_the_limit(retinanet, scenes, make_batch):
    batch = make_batch(scenes[:1])
    box = torch.tensor([10.0, 10, 40, 40])
    candidates = Candidates(
        torch.stack((box, box + 1, box, torch.tensor([50.0, 50, 90, 90]))),
        torch.tensor([0.9, 0.8, 0.7, 0.6]),
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([1, 1, 2, 1]),
    )
    selected = retinanet.select(candidates, batch)
    torch.testing.assert_close(selected.scores, torch.tensor([0.9, 0.7, 0.6]))
    assert selected.labels.tolist() == [1, 2, 1]
    assert selected.boxes[2].tolist() == [50, 50, 64, 64]  # clipped to the image
    retinanet.settings = retinanet.settings.model_copy(update={"detections_per_image": 2})
    assert retinanet.select(candidates, batch).counts == [2]
