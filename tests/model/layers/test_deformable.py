import pytest
import torch
import torchvision
from torch import nn

from model.backbones.blocks import Bottleneck
from model.backbones.resnet import ResNet, ResNetStages
from model.layers.deformable import convolve_deformed, make_offsets
from model.layers.norm import FrozenBatchNorm


def random_norm(kind, channels):
    norm, generator = kind(channels), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm.eval()


def maps(channels=8):
    return torch.randn(2, channels, 9, 11, generator=torch.Generator().manual_seed(0))


def layers(kind, **geometry):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, bias=False, **geometry)
    offsets = make_offsets(layer, kind)
    nn.init.normal_(offsets.weight, std=0.1)
    nn.init.normal_(offsets.bias)
    return layer, offsets


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("norm", [FrozenBatchNorm, nn.BatchNorm2d])
@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize(
    "geometry",
    [{"padding": 1}, {"padding": 2, "dilation": 2, "groups": 2}, {"padding": 1, "stride": 2}],
)
def test_the_layer_reads_where_the_convolution_beside_it_says(kind, norm, with_gradient, geometry):
    layer, offsets = layers(kind, **geometry)
    norm = random_norm(norm, 8)
    with torch.set_grad_enabled(with_gradient):
        ours = convolve_deformed(maps(), layer, offsets, norm)
    predicted = offsets(maps())
    # Rows and columns of the nine taps come first, their modulation after them (detectron2).
    expected = torchvision.ops.deform_conv2d(
        maps(),
        predicted[:, :18],
        layer.weight,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        mask=predicted[:, 18:].sigmoid() if kind == "v2" else None,
    )
    # The norm lies in the weights, fp32.
    torch.testing.assert_close(ours, norm(expected).relu(), rtol=1e-4, atol=1e-4)


def test_before_it_has_learned_v1_is_the_convolution_and_v2_half_of_it():
    plain = Bottleneck(8, 8, 16, 1, "frozen_bn", 1e-5).eval()
    for kind, factor in (("v1", 1.0), ("v2", 0.5)):
        block = Bottleneck(8, 8, 16, 1, "frozen_bn", 1e-5, deformable=kind).eval()
        block.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            plain.conv2.weight.mul_(factor)
            torch.testing.assert_close(block(maps()), plain(maps()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "rows"), [("v1", 18), ("v2", 27)])
def test_chosen_stages_deform_and_learn_to(kind, rows):
    stages = ResNetStages(
        50, width=8, groups=2, group_width=4, deformable=kind, deformable_stages=(3, 5)
    )
    model = ResNet(stages, frozen_stages=0)
    for number, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), 2):
        for block in layer:
            assert (block.conv2_offset is not None) == (number in (3, 5))
    offsets = model.layer2[0].conv2_offset
    assert offsets.weight.shape == (rows, 16, 3, 3)
    assert not offsets.weight.any()
    assert not offsets.bias.any()
    sum(f.square().mean() for f in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert offsets.weight.grad.any()
