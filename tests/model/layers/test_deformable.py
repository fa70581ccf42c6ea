import pytest
import torch
import torchvision
from torch import nn

from model.backbones.blocks import Bottleneck
from model.backbones.resnet import ResNet, ResNetStages
from model.layers.deformable import convolve_deformed, make_offset_conv
from model.layers.norm import FrozenBatchNorm
from tests.model.layers.fast_path import random_norm


def random_maps(channels=8):
    return torch.randn(2, channels, 9, 11, generator=torch.Generator().manual_seed(0))


def make_layers(kind, **geometry):
    """Return a convolution and the one that predicts its offsets, with random weights."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, bias=False, **geometry)
    offset_conv = make_offset_conv(conv, kind)
    nn.init.normal_(offset_conv.weight, std=0.1)
    nn.init.normal_(offset_conv.bias)
    return conv, offset_conv


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("norm", [FrozenBatchNorm, nn.BatchNorm2d])
@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize(
    "geometry",
    [{"padding": 1}, {"padding": 2, "dilation": 2, "groups": 2}, {"padding": 1, "stride": 2}],
)
def test_the_taps_sample_at_the_predicted_offsets(kind, norm, with_gradient, geometry):
    conv, offset_conv = make_layers(kind, **geometry)
    norm = random_norm(norm, 8)
    with torch.set_grad_enabled(with_gradient):
        result = convolve_deformed(random_maps(), conv, offset_conv, norm)
    predicted = offset_conv(random_maps())
    # First y and x of the nine taps, then their modulation (detectron2).
    deformed = torchvision.ops.deform_conv2d(
        random_maps(),
        predicted[:, :18],
        conv.weight,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        mask=predicted[:, 18:].sigmoid() if kind == "v2" else None,
    )
    # The norm is folded into the weights, fp32.
    torch.testing.assert_close(result, norm(deformed).relu(), rtol=1e-4, atol=1e-4)


def test_at_initialization_v1_is_the_ordinary_convolution_and_v2_half_of_it():
    plain = Bottleneck(8, 8, 16, 1, "frozen_bn", 1e-5).eval()
    for kind, factor in (("v1", 1.0), ("v2", 0.5)):
        block = Bottleneck(8, 8, 16, 1, "frozen_bn", 1e-5, deformable=kind).eval()
        block.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            plain.conv2.weight.mul_(factor)
            torch.testing.assert_close(
                block(random_maps()), plain(random_maps()), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(("kind", "rows"), [("v1", 18), ("v2", 27)])
def test_only_the_given_stages_are_deformable_and_their_offsets_train(kind, rows):
    stages = ResNetStages(
        50, width=8, groups=2, group_width=4, deformable=kind, deformable_stages=(3, 5)
    )
    model = ResNet(stages, frozen_stages=0)
    for number, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), 2):
        for block in layer:
            assert (block.conv2_offset is not None) == (number in (3, 5))
    offset_conv = model.layer2[0].conv2_offset
    assert offset_conv.weight.shape == (rows, 16, 3, 3)
    assert not offset_conv.weight.any()
    assert not offset_conv.bias.any()
    sum(f.square().mean() for f in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert offset_conv.weight.grad.any()
