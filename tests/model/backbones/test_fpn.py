import pytest
import torch
from torch import nn
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from model.backbones.fpn import FeaturePyramid


@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        ("none", None),
        ("batch_norm", nn.BatchNorm2d),
        ("group_norm", lambda channels: nn.GroupNorm(4, channels)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_torchvision_s_weights_give_torchvision_s_pyramid(kind, norm, training):
    channels = (8, 16, 32, 64)
    theirs = FeaturePyramidNetwork(channels, 12, LastLevelMaxPool(), norm).train(training)
    ours = FeaturePyramid(channels, 12, norm=kind).train(training)
    parts = {"inner_blocks": "lateral", "layer_blocks": "output"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        part, level, layer, tensor_kind = name.split(".")
        norms = "_norms" if layer == "1" else ""
        state[f"{parts[part]}{norms}.{level}.{tensor_kind}"] = tensor
        if norms and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    ours.load_state_dict(state)
    # Odd sides: a coarse map is not exactly half of the finer one.
    sides = ((50, 37), (25, 19), (13, 10), (7, 5))
    features = [torch.randn(2, c, *side) for c, side in zip(channels, sides, strict=True)]
    expected = theirs({str(i): f for i, f in enumerate(features)})
    for level, reference in zip(ours(features), expected.values(), strict=True):
        torch.testing.assert_close(level, reference)


@pytest.mark.parametrize("top", ["c5", "p5"])
def test_torchvision_s_weights_give_torchvision_s_p3_to_p7(top):
    channels = (8, 16, 32, 64)
    blocks = LastLevelP6P7(64 if top == "c5" else 12, 12)
    theirs = FeaturePyramidNetwork(channels[1:], 12, extra_blocks=blocks)
    ours = FeaturePyramid(channels, 12, top=top)
    state = {}
    for name, tensor in theirs.state_dict().items():
        part, level, *_, kind = name.split(".")
        ours_is = {"inner_blocks": f"lateral.{level}", "layer_blocks": f"output.{level}"}
        state[f"{ours_is.get(part, level)}.{kind}"] = tensor
    ours.load_state_dict(state)
    sides = ((50, 37), (25, 19), (13, 10), (7, 5))
    features = [torch.randn(2, c, *side) for c, side in zip(channels, sides, strict=True)]
    expected = theirs({str(i): f for i, f in enumerate(features[1:])})
    levels = ours(features)
    assert [tuple(level.shape[2:]) for level in levels] == [*sides[1:], (4, 3), (2, 2)]
    for level, reference in zip(levels, expected.values(), strict=True):
        torch.testing.assert_close(level, reference)
