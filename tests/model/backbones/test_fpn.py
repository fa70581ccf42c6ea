import pytest
import torch
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from model.backbones.fpn import FeaturePyramid
from tests.model.torchvision_norms import TORCHVISION_NORMS

CHANNELS = (8, 16, 32, 64)
# Odd sides: a coarse map is not exactly half as large as the finer one.
SIDES = ((50, 37), (25, 19), (13, 10), (7, 5))


def random_features():
    return [torch.randn(2, c, *side) for c, side in zip(CHANNELS, SIDES, strict=True)]


@pytest.mark.parametrize(("kind", "norm"), TORCHVISION_NORMS.items())
@pytest.mark.parametrize("training", [True, False])
def test_p2_to_p6_match_torchvision_with_its_weights(kind, norm, training):
    reference = FeaturePyramidNetwork(CHANNELS, 12, LastLevelMaxPool(), norm).train(training)
    pyramid = FeaturePyramid(CHANNELS, 12, norm=kind).train(training)
    parts = {"inner_blocks": "lateral", "layer_blocks": "output"}
    state = {}
    for name, tensor in reference.state_dict().items():
        part, level, layer, tensor_kind = name.split(".")
        norms = "_norms" if layer == "1" else ""
        state[f"{parts[part]}{norms}.{level}.{tensor_kind}"] = tensor
        if norms and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    pyramid.load_state_dict(state)
    features = random_features()
    expected = reference({str(i): f for i, f in enumerate(features)})
    for level, expected_level in zip(pyramid(features), expected.values(), strict=True):
        torch.testing.assert_close(level, expected_level)


@pytest.mark.parametrize("top", ["c5", "p5"])
def test_p3_to_p7_match_torchvision_with_its_weights(top):
    blocks = LastLevelP6P7(64 if top == "c5" else 12, 12)
    reference = FeaturePyramidNetwork(CHANNELS[1:], 12, extra_blocks=blocks)
    pyramid = FeaturePyramid(CHANNELS, 12, top=top)
    state = {}
    for name, tensor in reference.state_dict().items():
        part, level, *_, kind = name.split(".")
        renamed = {"inner_blocks": f"lateral.{level}", "layer_blocks": f"output.{level}"}
        state[f"{renamed.get(part, level)}.{kind}"] = tensor
    pyramid.load_state_dict(state)
    features = random_features()
    expected = reference({str(i): f for i, f in enumerate(features[1:])})
    levels = pyramid(features)
    assert [tuple(level.shape[2:]) for level in levels] == [*SIDES[1:], (4, 3), (2, 2)]
    for level, expected_level in zip(levels, expected.values(), strict=True):
        torch.testing.assert_close(level, expected_level)


@pytest.mark.parametrize("top", ["c5", "p5"])
def test_p7_is_made_from_p6_with_or_without_a_relu(top):
    pyramid, features = FeaturePyramid(CHANNELS, 12, top=top), random_features()
    *_, p6, p7 = pyramid(features)
    assert (p6 < 0).any()
    torch.testing.assert_close(p7, pyramid.p7(torch.relu(p6)))
    pyramid.relu_before_p7 = False
    torch.testing.assert_close(pyramid(features)[-1], pyramid.p7(p6))


def test_inference_equals_training_where_each_map_is_half_as_large_as_the_finer_one():
    pyramid = FeaturePyramid(CHANNELS, 12)
    features = [torch.randn(2, c, 64 >> i, 96 >> i) for i, c in enumerate(CHANNELS)]
    expected = pyramid(features)
    with torch.inference_mode():
        levels = pyramid(features)
    for level, expected_level in zip(levels, expected, strict=True):
        # Winograd's sums lose about a decimal digit.
        torch.testing.assert_close(level, expected_level, rtol=1e-4, atol=1e-4)
