"""Predictors with and without test-time augmentation, and images for them."""

import numpy as np
import pytest
import torch

from model import Predictor, build_detector
from tests.model.inference.detector_kinds import BACKBONE, KINDS, RPN
from tests.model.training import train_steps


@pytest.fixture
def make_predictor(tiny_config, keypoint_head):
    """Function from kind, augmentation and changes to a predictor; equal heads, equal weights."""

    def make_predictor(kind, augmentation=None, **changes):
        settings = {"rpn": RPN} | KINDS[kind] | changes
        settings["backbone"] = BACKBONE | settings.get("backbone", {})
        if settings.get("keypoint"):
            settings["keypoint"] = keypoint_head
        torch.manual_seed(0)
        detector = build_detector(tiny_config(test_augmentation=augmentation, **settings))
        with torch.no_grad():
            for name, parameter in detector.named_parameters():
                if name.endswith(("class_logits.weight", "objectness.weight")):
                    parameter *= 30  # random scores that differ
        return Predictor(detector.eval())

    return make_predictor


@pytest.fixture(scope="module")
def trained_scene(tiny_config, keypoint_head, box_targets, with_keypoints, draw_image, make_batch):
    """A scene, its image, and weights of a detector with all heads that overfits it."""
    scene = with_keypoints(box_targets([[6, 8, 30, 34], [34, 30, 60, 58]], [1, 2]))
    torch.manual_seed(0)
    detector = build_detector(tiny_config(keypoint=keypoint_head, backbone=BACKBONE, rpn=RPN))
    train_steps(detector, make_batch([scene]), [scene], steps=60, lr=3e-3)
    return scene, draw_image(scene).numpy(), detector.state_dict()


@pytest.fixture
def make_trained_predictor(trained_scene, tiny_config, keypoint_head):
    """Function from augmentation to a predictor with the weights of ``trained_scene``."""

    def make_trained_predictor(augmentation):
        config = tiny_config(
            test_augmentation=augmentation, keypoint=keypoint_head, backbone=BACKBONE, rpn=RPN
        )
        detector = build_detector(config)
        detector.load_state_dict(trained_scene[2])
        return Predictor(detector.eval())

    return make_trained_predictor


@pytest.fixture
def noise():
    """A random image, (64, 80, 3) uint8."""
    return np.random.default_rng(3).integers(0, 256, (64, 80, 3), dtype=np.uint8)
