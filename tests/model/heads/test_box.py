import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor

from model.backbones.resnet import ResNetStages
from model.heads.box import ConvFcBoxHead, Res5BoxHead
from tests.model.torchvision_norms import TORCHVISION_NORMS


def random_pooled(channels=8, side=7, rois=5):
    """Return (rois, channels, side, side) features in channels_last layout, as poolers do."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rois, channels, side, side, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def randomize_vectors(module):
    """Give norms and biases random values."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)


@pytest.mark.parametrize(("kind", "norm"), TORCHVISION_NORMS.items())
@pytest.mark.parametrize("training", [True, False])
def test_predictions_match_torchvision_with_its_weights(kind, norm, training):
    torch.manual_seed(0)
    reference = FastRCNNConvFCHead((8, 7, 7), [12] * 4, [32], norm).train(training)
    predictor = FastRCNNPredictor(32, 4)
    head = ConvFcBoxHead(8, 7, 3, 32, 1, conv_layers=4, conv_channels=12, norm=kind)
    head.train(training)
    randomize_vectors(reference)
    state = {}
    for name, tensor in reference.state_dict().items():
        index, *rest = name.split(".")
        if index == "5":
            state[f"fc1.{rest[0]}"] = tensor
        else:
            state[f"{'norms' if rest[0] == '1' else 'convs'}.{index}.{rest[1]}"] = tensor
    renamed = {"cls_score": "class_logits", "bbox_pred": "box_deltas"}
    for name, tensor in predictor.state_dict().items():
        layer, tensor_kind = name.split(".")
        state[f"{renamed[layer]}.{tensor_kind}"] = tensor
    head.load_state_dict(state)
    with torch.no_grad():
        logits, deltas = head(random_pooled())
        expected_logits, expected_deltas = predictor(reference(random_pooled()))
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deltas.flatten(1), expected_deltas, rtol=1e-4, atol=1e-4)


def test_fully_connected_layers_are_numbered_from_1_and_applied_in_order():
    head = ConvFcBoxHead(8, 7, 3, hidden=16, fc_layers=3)
    assert [n for n in head.state_dict() if n.endswith("weight") and n.startswith("fc")] == [
        "fc1.weight",
        "fc2.weight",
        "fc3.weight",
    ]
    expected = random_pooled().contiguous().flatten(1)
    for layer in (head.fc1, head.fc2, head.fc3):
        expected = layer(expected).relu()
    torch.testing.assert_close(head.extract(random_pooled()), expected, rtol=1e-4, atol=1e-4)


def test_fully_connected_layers_can_have_group_norm():
    torch.manual_seed(0)
    head = ConvFcBoxHead(8, 7, 3, hidden=64, fc_norm="group_norm")
    randomize_vectors(head)
    assert head.fc1.bias is None and head.fc2.bias is None
    layers = nn.Sequential(
        nn.Flatten(), head.fc1, nn.GroupNorm(32, 64), nn.ReLU(), head.fc2, nn.GroupNorm(32, 64)
    )
    layers[2].load_state_dict(head.fc_norms[0].state_dict())
    layers[5].load_state_dict(head.fc_norms[1].state_dict())
    expected = layers(random_pooled().contiguous()).relu()
    torch.testing.assert_close(head.extract(random_pooled()), expected, rtol=1e-4, atol=1e-4)


def test_the_res5_head_predicts_from_maps_of_half_the_side_averaged():
    torch.manual_seed(0)
    stages = ResNetStages(50, width=8)
    head = Res5BoxHead(stages, 3, frozen=False)
    maps = head.extract(random_pooled(stages.channels(4), side=14))
    assert maps.shape == (5, stages.channels(5), 7, 7)
    logits, deltas = head.predict(maps)
    averages = maps.mean((2, 3))
    assert logits.equal(head.class_logits(averages))
    assert deltas.flatten(1).equal(head.box_deltas(averages))


def test_a_frozen_res5_keeps_its_weights_and_norm_statistics():
    stages = ResNetStages(50, "batch_norm", width=8)
    head = Res5BoxHead(stages, 3, frozen=True).train()
    before = {name: value.clone() for name, value in head.res5.named_buffers()}
    logits, _ = head(random_pooled(stages.channels(4), side=14))
    logits.sum().backward()
    assert all(p.grad is None for p in head.res5.parameters())
    assert head.class_logits.weight.grad is not None
    assert all(value.equal(before[name]) for name, value in head.res5.named_buffers())
