import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from model.boxes.coding import BoxCoder
from model.boxes.selection import select_boxes
from model.config import BoxHeadConfig
from model.heads.conv_fc import ConvFcBoxHead
from model.heads.mask import MaskHead
from model.structures import ImageSize

NORMS = {
    "none": None,
    "batch_norm": nn.BatchNorm2d,
    "group_norm": lambda channels: nn.GroupNorm(4, channels),
}


def pooled(channels=8, side=7, rois=5):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rois, channels, side, side, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def randomise(module):
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_convolutions_and_one_layer_describe_as_torchvision_s(norm, training):
    torch.manual_seed(0)
    theirs = FastRCNNConvFCHead((8, 7, 7), [12] * 4, [32], NORMS[norm]).train(training)
    predictor = FastRCNNPredictor(32, 4)
    ours = ConvFcBoxHead(8, 7, 3, 32, 1, conv_layers=4, conv_channels=12, norm=norm)
    ours.train(training)
    randomise(theirs)
    state = {}
    for name, tensor in theirs.state_dict().items():
        index, *rest = name.split(".")
        if index == "5":
            state[f"fc1.{rest[0]}"] = tensor
        else:
            state[f"{'norms' if rest[0] == '1' else 'convs'}.{index}.{rest[1]}"] = tensor
    renamed = {"cls_score": "class_logits", "bbox_pred": "box_deltas"}
    for name, tensor in predictor.state_dict().items():
        layer, kind = name.split(".")
        state[f"{renamed[layer]}.{kind}"] = tensor
    ours.load_state_dict(state)
    with torch.no_grad():
        logits, deltas = ours(pooled())
        scores, boxes = predictor(theirs(pooled()))
    torch.testing.assert_close(logits, scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deltas.flatten(1), boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_the_mask_head_s_norms_are_torchvision_s(norm, training):
    torch.manual_seed(0)
    theirs = MaskRCNNHeads(8, [12, 12], 1, NORMS[norm]).train(training)
    ours = MaskHead(8, 12, 2, 3, norm).train(training)
    randomise(theirs)
    state = {n: t for n, t in ours.state_dict().items() if n.startswith(("upsample", "logits"))}
    for name, tensor in theirs.state_dict().items():
        index, part, kind = name.split(".")
        state[f"{'norms' if part == '1' else 'convs'}.{index}.{kind}"] = tensor
    ours.load_state_dict(state)
    labels = torch.tensor([1, 3, 2, 2, 1])
    with torch.no_grad():
        every_class = ours.logits(ours.upsample(theirs(pooled(side=14))).relu())
        masks = ours(pooled(side=14), labels)
    torch.testing.assert_close(masks, every_class[torch.arange(5), labels], rtol=1e-4, atol=1e-4)


def test_a_deeper_head_has_its_layers_by_number():
    head = ConvFcBoxHead(8, 7, 3, hidden=16, fc_layers=3)
    assert [n for n in head.state_dict() if n.endswith("weight") and n.startswith("fc")] == [
        "fc1.weight",
        "fc2.weight",
        "fc3.weight",
    ]
    expected = pooled().contiguous().flatten(1)
    for layer in (head.fc1, head.fc2, head.fc3):
        expected = layer(expected).relu()
    torch.testing.assert_close(head.describe(pooled()), expected, rtol=1e-4, atol=1e-4)


def test_hidden_layers_may_be_normalised():
    torch.manual_seed(0)
    head = ConvFcBoxHead(8, 7, 3, hidden=64, fc_norm="group_norm")
    randomise(head)
    assert head.fc1.bias is None and head.fc2.bias is None
    theirs = nn.Sequential(
        nn.Flatten(), head.fc1, nn.GroupNorm(32, 64), nn.ReLU(), head.fc2, nn.GroupNorm(32, 64)
    )
    theirs[2].load_state_dict(head.fc_norms[0].state_dict())
    theirs[5].load_state_dict(head.fc_norms[1].state_dict())
    expected = theirs(pooled().contiguous()).relu()
    torch.testing.assert_close(head.describe(pooled()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_box_of_all_classes_serves_each(rows):
    logits = torch.tensor([[0.0, 3.0, 2.9, -9.0]])
    deltas = torch.tensor([[[1.0, -2.0, 0.5, 0.0]]]).expand(-1, rows, -1)
    found = select_boxes(
        logits,
        deltas,
        torch.tensor([[0.0, 10, 10, 30, 50]]),
        torch.tensor([True]),
        BoxCoder((10.0, 10.0, 5.0, 5.0)),
        [ImageSize(100, 100)],
        BoxHeadConfig(),
    )
    assert found.labels.tolist() == [1, 2]
    # 20 x 40 pixels: a tenth to the right, two tenths up, exp(0.1) wider.
    half = 10 * torch.tensor(0.1).exp().item()
    expected = torch.tensor([22 - half, 22 - 20, 22 + half, 22 + 20])
    for box in found.rois[:, 1:]:
        torch.testing.assert_close(box, expected)
