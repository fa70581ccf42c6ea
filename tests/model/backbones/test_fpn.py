import torch
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

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
