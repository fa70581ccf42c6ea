import pytest
import torch
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from model.backbones.fpn import FeaturePyramid


def test_torchvision_s_weights_give_torchvision_s_pyramid():
    channels = (8, 16, 32, 64)
    theirs = FeaturePyramidNetwork(channels, 12, extra_blocks=LastLevelMaxPool())
    ours = FeaturePyramid(channels, 12)
    parts = {"inner_blocks": "lateral", "layer_blocks": "output"}
    for name, tensor in theirs.state_dict().items():
        part, level, _, kind = name.split(".")
        ours.get_parameter(f"{parts[part]}.{level}.{kind}").data.copy_(tensor)
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
