import pytest
import torch
from torch import nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

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
