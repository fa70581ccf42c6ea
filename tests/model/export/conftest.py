"""A narrow detector whose scores and boxes differ, and pictures to show it."""

import pytest
import torch

from model import ModelConfig, build_detector
from model.layers.norm import FrozenBatchNorm

SETTINGS = {
    "num_classes": 5,
    "input": {"short_side": 96, "long_side": 160},
    "backbone": {"depth": 18, "width": 16},
    "fpn": {"channels": 32},
    "rpn": {"anchor_sizes": (8, 16, 32, 48, 64), "pre_nms_test": 100, "post_nms_test": 60},
    "box": {"hidden": 64, "detections_per_image": 40},
    "mask": {"channels": 16, "layers": 2},
}


def _build_spread(**changes):
    """Random weights, but statistics that are no identity and classes that differ."""
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
        _spread_judgements(detector, generator)
        for name, layer in detector.named_modules():
            if name.endswith("conv2_offset"):
                layer.weight += 0.05 * torch.randn(layer.weight.shape, generator=generator)
                layer.bias += torch.randn(layer.bias.shape, generator=generator)
    return detector


def _spread_judgements(detector, generator):
    if detector.retinanet is not None:
        detector.retinanet.class_logits.weight *= 200
        detector.retinanet.box_deltas.weight *= 50
        return
    detector.rpn.head.objectness.weight *= 20
    detector.rpn.head.deltas.weight *= 5
    if detector.roi_heads is None:
        return
    logits = detector.roi_heads.box.class_logits
    logits.weight *= 60
    # hidden units are positive: without their common part, proposals differ in their class
    logits.weight -= logits.weight.mean(dim=1, keepdim=True)
    logits.bias += 0.3 * torch.randn(len(logits.bias), generator=generator)


def _soft_blots(height, width, seed=0):
    """(height, width, 3) uint8."""
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


@pytest.fixture(scope="session")
def build_spread():
    return _build_spread


@pytest.fixture(scope="session")
def spread_detector():
    return _build_spread()


@pytest.fixture(scope="session")
def soft_blots():
    return _soft_blots
