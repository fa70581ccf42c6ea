"""A detector small enough for a test, and scenes to train it on. Some fixtures are functions."""

from dataclasses import replace

import pytest
import torch

from model import ModelConfig, build_detector
from model.preprocess import pad_batch
from model.structures import ImageSize, PolygonMasks, Targets

COLORS = torch.tensor([[220, 40, 40], [40, 200, 60], [50, 70, 230]], dtype=torch.uint8)


def _tiny_config(**changes):
    """Return settings of a ResNet-18 of a quarter of its width, 64-pixel images and 3 classes."""
    settings = {
        "num_classes": 3,
        "input": {"short_side": 64, "long_side": 96},
        "backbone": {
            "depth": 18,
            "norm": "group_norm",
            "frozen_stages": 0,
            "width": 16,
        },
        "fpn": {"channels": 32},
        "rpn": {
            "anchor_sizes": (8, 16, 32, 48, 64),
            "pre_nms_train": 100,
            "post_nms_train": 50,
            "pre_nms_test": 100,
            "post_nms_test": 50,
        },
        "box": {"hidden": 64, "samples_per_image": 64},
        "mask": {"channels": 16, "layers": 2},
    }
    return ModelConfig.model_validate(settings | changes)


def _box_targets(boxes, labels):
    """Return targets whose masks fill their boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    offsets = torch.arange(len(boxes) + 1)
    return Targets(
        boxes,
        torch.tensor(labels, dtype=torch.int64),
        PolygonMasks(corners, 4 * offsets, offsets),
    )


def _with_keypoints(target):
    """Add three keypoints to each object: a visible one, a hidden one, one without a label."""
    corner, sides = target.boxes[:, None, :2], (target.boxes[:, 2:] - target.boxes[:, :2])[:, None]
    xy = corner + sides * torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.25]])
    visibility = torch.tensor([2.0, 1.0, 0.0])[None, :, None].expand(len(target), -1, -1)
    return replace(target, keypoints=torch.cat((xy, visibility), dim=2))


def _draw_image(target, height=64, width=64):
    """Return (H, W, 3) uint8: each object in the color of its class, on gray."""
    image = torch.full((height, width, 3), 90, dtype=torch.uint8)
    for box, label in zip(target.boxes.long().tolist(), target.labels.tolist(), strict=True):
        image[box[1] : box[3], box[0] : box[2]] = COLORS[label - 1]
    return image


def _make_batch(targets, seeds=None, canvas=None):
    """Return the padded batch of the images of these targets."""
    images = [_draw_image(target) for target in targets]
    sizes = [ImageSize(*image.shape[:2]) for image in images]
    return pad_batch(images, sizes, seeds or range(len(targets)), canvas=canvas)


@pytest.fixture
def scenes():
    return [
        _box_targets([[6, 8, 30, 34], [34, 30, 60, 58]], [1, 2]),
        _box_targets([[20, 10, 52, 40]], [3]),
    ]


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_detector(_tiny_config())


@pytest.fixture(scope="session")
def with_keypoints():
    return _with_keypoints


@pytest.fixture
def keypoint_scenes(scenes):
    return [_with_keypoints(target) for target in scenes]


@pytest.fixture(scope="session")
def keypoint_head():
    """Settings of a keypoint head for targets from ``with_keypoints``."""
    return {"names": ("left", "middle", "right"), "channels": 16, "layers": 2}


@pytest.fixture
def full_detector(keypoint_head):
    """A detector with a mask head and a keypoint head."""
    torch.manual_seed(0)
    return build_detector(_tiny_config(keypoint=keypoint_head))


@pytest.fixture(scope="session")
def tiny_config():
    return _tiny_config


@pytest.fixture(scope="session")
def box_targets():
    return _box_targets


@pytest.fixture(scope="session")
def draw_image():
    return _draw_image


@pytest.fixture(scope="session")
def make_batch():
    return _make_batch
