"""Detectors that look at a picture more than once, and what they look at."""

import numpy as np
import pytest
import torch

from model import build_detector
from tests.model.inference.kinds import BACKBONE, FEW, KINDS


@pytest.fixture
def build(tiny_config, keypoint_head):
    """Detectors of each kind, all with the same weights."""

    def build(kind, augmentation, **changes):
        settings = {"rpn": FEW} | KINDS[kind] | changes
        settings["backbone"] = BACKBONE | settings.get("backbone", {})
        if settings.get("keypoint"):
            settings["keypoint"] = keypoint_head
        torch.manual_seed(0)
        detector = build_detector(tiny_config(test_augmentation=augmentation, **settings))
        with torch.no_grad():
            for name, parameter in detector.named_parameters():
                if name.endswith(("class_logits.weight", "objectness.weight")):
                    parameter *= 30  # random scores that differ
        return detector.eval()

    return build


@pytest.fixture(scope="module")
def learned(tiny_config, keypoint_head, box_targets, with_keypoints, draw_image, batch_of):
    """A scene, and the weights of a detector with masks and keypoints that knows it by heart."""
    scene = with_keypoints(box_targets([[6, 8, 30, 34], [34, 30, 60, 58]], [1, 2]))
    torch.manual_seed(0)
    config = tiny_config(keypoint=keypoint_head, backbone=BACKBONE, rpn=FEW)
    detector = build_detector(config).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for _ in range(60):
        terms = detector(batch_of([scene]), [scene])
        optimizer.zero_grad()
        sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
        optimizer.step()
    return scene, draw_image(scene).numpy(), detector.state_dict()


@pytest.fixture
def knowing(learned, tiny_config, keypoint_head):
    """The detector that knows the scene, looking at it as told."""

    def knowing(augmentation):
        config = tiny_config(
            test_augmentation=augmentation, keypoint=keypoint_head, backbone=BACKBONE, rpn=FEW
        )
        detector = build_detector(config)
        detector.load_state_dict(learned[2])
        return detector.eval()

    return knowing


@pytest.fixture
def noise():
    return np.random.default_rng(3).integers(0, 256, (64, 80, 3), dtype=np.uint8)
