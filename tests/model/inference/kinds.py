"""Narrow detectors of every kind, views for them, and when two show the same."""

import torch

KINDS = {
    "fpn": {},
    "c4": {"backbone": {"features": "c4"}, "box": {"hidden": 64, "pool_side": 6}},
    "c5": {"backbone": {"features": "c5"}, "keypoint": True},
    "retinanet": {
        "box": None,
        "mask": None,
        "retinanet": {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 1, "score_threshold": 0.009},
    },
    "faster": {"mask": None},
    "keypoint": {"mask": None, "keypoint": True},
    "legacy": {"conventions": {"legacy_geometry": True}},
    "rpn": {"box": None, "mask": None},
}
BACKBONE = {"depth": 18, "norm": "group_norm", "frozen_stages": 0, "width": 8}
FEW = {
    "anchor_sizes": (8, 16, 32, 48, 64),
    "pre_nms_train": 100,
    "post_nms_train": 30,
    "pre_nms_test": 40,
    "post_nms_test": 20,
}
ONE_VIEW = {"short_sides": (64,), "long_side": 96, "flip": False}
MIRRORED = ONE_VIEW | {"flip": True}
SIZES = {"short_sides": (48, 64), "long_side": 120}


def assert_alike(found, expected, box, rest):
    assert len(found) == len(expected) > 0
    assert found.image_size == expected.image_size
    assert found.labels.equal(expected.labels)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=box)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=rest)
    assert (found.masks is None) == (expected.masks is None)
    assert (found.keypoints is None) == (expected.keypoints is None)
    if found.masks is not None:
        torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=rest)
