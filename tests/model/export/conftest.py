"""A narrow detector whose scores and boxes vary, and images to run it on."""

import pytest
import torch

from model import ModelConfig, build_detector
from model.layers.norm import FrozenBatchNorm
from model.one_stage import OneStageDetector
from model.two_stage import TwoStageDetector

SETTINGS = {
    "num_classes": 5,
    "input": {"short_side": 96, "long_side": 160},
    "backbone": {"depth": 18, "width": 16},
    "fpn": {"channels": 32},
    "rpn": {"anchor_sizes": (8, 16, 32, 48, 64), "pre_nms_test": 100, "post_nms_test": 60},
    "box": {"hidden": 64, "detections_per_image": 40},
    "mask": {"channels": 16, "layers": 2},
}


def _make_detector(**changes):
    """Build a detector with random weights, norms that are not the identity and varied scores."""
    torch.manual_seed(3)
    detector = build_detector(ModelConfig.model_validate(SETTINGS | changes)).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for norm in detector.modules():
            if isinstance(norm, FrozenBatchNorm):
                channels = len(norm.weight)
                norm.running_mean += 0.1 * torch.randn(channels, generator=generator)
                norm.running_var *= 0.5 + torch.rand(channels, generator=generator)
                norm.weight *= 0.6
        _spread_predictions(detector, generator)
        for name, layer in detector.named_modules():
            if name.endswith("conv2_offset"):
                layer.weight += 0.05 * torch.randn(layer.weight.shape, generator=generator)
                layer.bias += torch.randn(layer.bias.shape, generator=generator)
    return detector


def _spread_predictions(detector, generator):
    """Scale the weights of the predictors so that scores and boxes vary."""
    if isinstance(detector, OneStageDetector):
        detector.retinanet.class_logits.weight *= 200
        detector.retinanet.box_deltas.weight *= 50
        return
    detector.rpn.head.objectness.weight *= 20
    detector.rpn.head.deltas.weight *= 5
    if not isinstance(detector, TwoStageDetector):
        return
    logits = detector.roi_heads.box.class_logits
    logits.weight *= 60
    # Hidden units are positive: without their common part, proposals differ in their class.
    logits.weight -= logits.weight.mean(dim=1, keepdim=True)
    logits.bias += 0.3 * torch.randn(len(logits.bias), generator=generator)


def _smooth_image(height, width, seed=0):
    """Return smooth random colors, (height, width, 3) uint8."""
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


@pytest.fixture(scope="session")
def make_detector():
    return _make_detector


@pytest.fixture(scope="session")
def mask_detector():
    """A Mask R-CNN on a feature pyramid, shared by all tests; do not modify it."""
    return _make_detector()


@pytest.fixture(scope="session")
def smooth_image():
    return _smooth_image


@pytest.fixture(scope="module")
def one_map_detector():
    """A Mask R-CNN on C4, exported and loaded in a fifth of the time of a pyramid's."""
    return _make_detector(
        backbone={"depth": 18, "width": 16, "features": "c4"},
        box={"pool_side": 14, "detections_per_image": 40},
    )
