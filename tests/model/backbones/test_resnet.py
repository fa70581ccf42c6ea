import pytest
import torch
import torchvision.models as zoo
from torch import nn

from model.backbones.resnet import ResNet, ResNetStages


def randomize_norms(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
            module.running_mean = torch.randn(channels, generator=generator) * 0.1
            module.running_var = torch.rand(channels, generator=generator) + 0.5
            module.weight.data = torch.rand(channels, generator=generator) * 0.5
            module.bias.data = torch.randn(channels, generator=generator) * 0.1


@pytest.mark.parametrize(
    ("depth", "norm"),
    [
        (18, "frozen_bn"),
        (34, "frozen_bn"),
        (50, "frozen_bn"),
        (101, "frozen_bn"),
        (18, "batch_norm"),
        (50, "batch_norm"),
    ],
)
def test_features_match_torchvision_with_its_weights(depth, norm):
    reference = getattr(zoo, f"resnet{depth}")().eval()
    randomize_norms(reference)
    resnet = ResNet(ResNetStages(depth, norm)).eval()
    report = resnet.load_state_dict(reference.state_dict(), strict=False)
    assert not report.missing_keys
    assert all(n.startswith("fc.") or "num_batches" in n for n in report.unexpected_keys)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for stage, feature in enumerate(resnet(x), start=1):
            expected = getattr(reference, f"layer{stage}")(expected)
            # The norms are folded into the weights: other rounding, through up to 100 layers.
            torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_keep_their_weights_and_norm_statistics(stages):
    model = ResNet(ResNetStages(18, "batch_norm", width=8), frozen_stages=stages).train()
    parts = [model.conv1, model.layer1, model.layer2, model.layer3, model.layer4]
    trainable = [any(p.requires_grad for p in part.parameters()) for part in parts]
    assert trainable == [False] * stages + [True] * (5 - stages)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    updated = {name.split(".")[0] for name, v in model.named_buffers() if not v.equal(before[name])}
    names = ["bn1", "layer1", "layer2", "layer3", "layer4"]
    assert updated == set(names[stages:])


def test_the_stride_is_in_the_1x1_or_the_3x3_convolution():
    for in_1x1, first, second in ((True, (2, 2), (1, 1)), (False, (1, 1), (2, 2))):
        block = ResNet(ResNetStages(50, width=8, stride_in_1x1=in_1x1)).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == (first, second)


@pytest.mark.parametrize("norm", ["frozen_bn", "batch_norm", "group_norm"])
def test_the_width_scales_every_stage(norm):
    model = ResNet(ResNetStages(50, norm, width=24))
    features = model(torch.zeros(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == [96, 192, 384, 768] == list(model.channels)
    assert [f.shape[2] for f in features] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet152", ResNetStages(152, "batch_norm")),
        ("resnext50_32x4d", ResNetStages(50, "batch_norm", groups=32, group_width=4)),
        ("resnext101_32x8d", ResNetStages(101, "batch_norm", groups=32, group_width=8)),
    ],
)
def test_published_backbones_have_the_layers_of_torchvision(name, stages):
    with torch.device("meta"):
        reference, resnet = getattr(zoo, name)(), ResNet(stages)
    shapes = {n: p.shape for n, p in reference.state_dict().items() if not n.startswith("fc.")}
    assert {n: p.shape for n, p in resnet.state_dict().items()} == shapes
    width_in_res2 = 256 if name == "resnext101_32x8d" else 128 if "next" in name else 64
    assert resnet.layer1[0].conv2.out_channels == width_in_res2


@pytest.mark.parametrize(
    ("reference_settings", "settings"),
    [
        ({"groups": 4, "width_per_group": 8}, {"groups": 4, "group_width": 8}),
        ({"replace_stride_with_dilation": [False, False, True]}, {"dilated": True}),
    ],
    ids=["groups", "dilation"],
)
def test_features_with_groups_or_dilation_match_torchvision(reference_settings, settings):
    reference = zoo.ResNet(zoo.resnet.Bottleneck, [3, 4, 6, 3], **reference_settings).eval()
    randomize_norms(reference)
    resnet = ResNet(ResNetStages(50, **settings)).eval()
    assert not resnet.load_state_dict(reference.state_dict(), strict=False).missing_keys
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    # With and without gradients: two ways to compute a convolution.
    with torch.no_grad():
        inferred_features = resnet(x)
    features = zip(resnet(x), inferred_features, strict=True)
    for stage, (feature, inferred) in enumerate(features, start=1):
        expected = getattr(reference, f"layer{stage}")(expected)
        torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(inferred, expected, rtol=1e-3, atol=1e-4)


def test_the_first_block_of_a_dilated_res5_is_dilated_only_in_detectron2():
    dilations = [
        [block.conv2.dilation[0] for block in ResNet(stages).layer4]
        for stages in (
            ResNetStages(50, width=8, dilated=True),
            ResNetStages(50, width=8, dilated=True, dilate_first_block=True),
        )
    ]
    assert dilations == [[1, 2, 2], [2, 2, 2]]


def test_a_backbone_without_res5_ends_with_res4():
    model = ResNet(ResNetStages(50, width=8), last_stage=4)
    assert [f.shape[2] for f in model(torch.zeros(1, 3, 64, 64))] == [16, 8, 4]
    assert model.channels == (32, 64, 128)
    assert not any(name.startswith("layer4") for name in model.state_dict())
