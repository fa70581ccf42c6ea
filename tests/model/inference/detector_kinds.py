"""Settings of narrow detectors and of augmentations, and a comparison of detections."""

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
RPN = {
    "anchor_sizes": (8, 16, 32, 48, 64),
    "pre_nms_train": 100,
    "post_nms_train": 30,
    "pre_nms_test": 40,
    "post_nms_test": 20,
}
ONE_VIEW = {"short_sides": (64,), "long_side": 96, "flip": False}
ONE_SIZE_FLIPPED = ONE_VIEW | {"flip": True}
TWO_SIZES_FLIPPED = {"short_sides": (48, 64), "long_side": 120}


def assert_detections_close(result, expected, box_atol, other_atol):
    """Assert that two detections of one image are the same and not empty; keypoints aside."""
    assert len(result) == len(expected) > 0
    assert result.image_size == expected.image_size
    assert result.labels.equal(expected.labels)
    torch.testing.assert_close(result.boxes, expected.boxes, rtol=0, atol=box_atol)
    torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=other_atol)
    assert (result.masks is None) == (expected.masks is None)
    assert (result.keypoints is None) == (expected.keypoints is None)
    if result.masks is not None:
        torch.testing.assert_close(result.masks, expected.masks, rtol=0, atol=other_atol)
