"""A detector small enough to run in a test, and scenes for it; fixtures that give functions."""

from dataclasses import replace

import pytest
import torch

from model import ModelConfig, build_detector
from model.preprocess import pad_batch
from model.structures import ImageSize, PolygonMasks, Targets

COLOURS = torch.tensor([[220, 40, 40], [40, 200, 60], [50, 70, 230]], dtype=torch.uint8)


def _tiny_config(**changes):
    """ResNet-18 of an eighth of its width, 64-pixel images, 3 classes."""
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
    """Targets whose masks fill their boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    offsets = torch.arange(len(boxes) + 1)
    return Targets(
        boxes,
        torch.tensor(labels, dtype=torch.int64),
        PolygonMasks(corners, 4 * offsets, offsets),
    )


def _with_keypoints(target):
    """The target with three keypoints per object: visible, hidden in its middle, not labelled."""
    corner, sides = target.boxes[:, None, :2], (target.boxes[:, 2:] - target.boxes[:, :2])[:, None]
    places = corner + sides * torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.25]])
    seen = torch.tensor([2.0, 1.0, 0.0])[None, :, None].expand(len(target), -1, -1)
    return replace(target, keypoints=torch.cat((places, seen), dim=2))


def _draw_image(target, height=64, width=64):
    """(H, W, 3) uint8: each object in its class's colour on grey."""
    picture = torch.full((height, width, 3), 90, dtype=torch.uint8)
    for box, label in zip(target.boxes.long().tolist(), target.labels.tolist(), strict=True):
        picture[box[1] : box[3], box[0] : box[2]] = COLOURS[label - 1]
    return picture


def _batch_of(targets, seeds=None, canvas=None):
    pictures = [_draw_image(target) for target in targets]
    sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
    return pad_batch(pictures, sizes, seeds or range(len(targets)), canvas=canvas)


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


@pytest.fixture(scope="session")
def keypoint_head():
    """Settings of a keypoint head for with_keypoints targets."""
    return {"names": ("left", "middle", "right"), "channels": 16, "layers": 2}


@pytest.fixture
def full_detector(keypoint_head):
    """With a mask head and a keypoint head."""
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
def batch_of():
    return _batch_of
