import pytest
import torch
import torchvision.models as zoo
from torch import nn

from model.backbones.resnet import ResNet, ResNetStages
from model.layers.norm import FrozenBatchNorm, convolve_and_normalise


def randomise_norms(model):
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
def test_torchvision_s_weights_give_torchvision_s_features(depth, norm):
    theirs = getattr(zoo, f"resnet{depth}")().eval()
    randomise_norms(theirs)
    ours = ResNet(ResNetStages(depth, norm)).eval()
    report = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not report.missing_keys
    assert all(n.startswith("fc.") or "num_batches" in n for n in report.unexpected_keys)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage, feature in enumerate(ours(x), start=1):
            expected = getattr(theirs, f"layer{stage}")(expected)
            # The norm lies in the weights: other rounding, through up to 100 layers.
            torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-4)


def test_a_fixed_norm_inside_the_convolution_gives_the_same_gradients():
    generator = torch.Generator().manual_seed(0)
    convolution, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), FrozenBatchNorm(16)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    norm.running_mean.normal_(generator=generator)
    x = torch.randn(2, 8, 9, 9, generator=generator, requires_grad=True)
    direction = torch.randn(2, 16, 9, 9, generator=generator)
    inputs = (x, convolution.weight)
    folded = convolve_and_normalise(x, convolution, norm)
    separate = norm(convolution(x))
    torch.testing.assert_close(folded, separate, rtol=1e-4, atol=1e-5)
    for ours, expected in zip(
        torch.autograd.grad((folded * direction).sum(), inputs),
        torch.autograd.grad((separate * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_neither_train_nor_move_their_statistics(stages):
    model = ResNet(ResNetStages(18, "batch_norm", width=8), frozen_stages=stages).train()
    parts = [model.conv1, model.layer1, model.layer2, model.layer3, model.layer4]
    trains = [any(p.requires_grad for p in part.parameters()) for part in parts]
    assert trains == [False] * stages + [True] * (5 - stages)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    moved = {name.split(".")[0] for name, v in model.named_buffers() if not v.equal(before[name])}
    names = ["bn1", "layer1", "layer2", "layer3", "layer4"]
    assert moved == set(names[stages:])


def test_the_stride_can_lie_in_the_1x1_or_the_3x3():
    for in_1x1, first, second in ((True, (2, 2), (1, 1)), (False, (1, 1), (2, 2))):
        block = ResNet(ResNetStages(50, width=8, stride_in_1x1=in_1x1)).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == (first, second)


@pytest.mark.parametrize("norm", ["frozen_bn", "batch_norm", "group_norm"])
def test_width_scales_every_stage(norm):
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
def test_published_backbones_have_torchvision_s_layers(name, stages):
    with torch.device("meta"):
        theirs, ours = getattr(zoo, name)(), ResNet(stages)
    shapes = {n: p.shape for n, p in theirs.state_dict().items() if not n.startswith("fc.")}
    assert {n: p.shape for n, p in ours.state_dict().items()} == shapes
    in_res2 = 256 if name == "resnext101_32x8d" else 128 if "next" in name else 64
    assert ours.layer1[0].conv2.out_channels == in_res2


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"groups": 4, "width_per_group": 8}, {"groups": 4, "group_width": 8}),
        ({"replace_stride_with_dilation": [False, False, True]}, {"dilated": True}),
    ],
    ids=["groups", "dilation"],
)
def test_groups_and_dilation_give_torchvision_s_features(theirs, ours):
    model = zoo.ResNet(zoo.resnet.Bottleneck, [3, 4, 6, 3], **theirs).eval()
    randomise_norms(model)
    resnet = ResNet(ResNetStages(50, **ours)).eval()
    assert not resnet.load_state_dict(model.state_dict(), strict=False).missing_keys
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    # With gradients and without: two ways to convolve.
    with torch.no_grad():
        without = resnet(x)
    for stage, (feature, inferred) in enumerate(zip(resnet(x), without, strict=True), start=1):
        expected = getattr(model, f"layer{stage}")(expected)
        torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(inferred, expected, rtol=1e-3, atol=1e-4)


def test_detectron2_dilates_the_first_block_too():
    dilations = [
        [block.conv2.dilation[0] for block in ResNet(stages).layer4]
        for stages in (
            ResNetStages(50, width=8, dilated=True),
            ResNetStages(50, width=8, dilated=True, dilate_first_block=True),
        )
    ]
    assert dilations == [[1, 2, 2], [2, 2, 2]]


def test_without_res5_a_backbone_ends_with_res4():
    model = ResNet(ResNetStages(50, width=8), last_stage=4)
    assert [f.shape[2] for f in model(torch.zeros(1, 3, 64, 64))] == [16, 8, 4]
    assert model.channels == (32, 64, 128)
    assert not any(name.startswith("layer4") for name in model.state_dict())
