"""Recomputed activations: the same results bit for bit, with less kept for the backward pass."""

import copy

import pytest
import torch

from model.backbones import activation_checkpointing, resnet
from model.backbones.activation_checkpointing import checkpoint_segment
from model.backbones.resnet import ResNet, ResNetStages

NORMS = ["batch_norm", "sync_batch_norm", "group_norm", "frozen_bn"]


def pair(norm="batch_norm", frozen_stages=0, depth=50, **stages):
    """Return the same ResNet twice; the second recomputes its activations."""
    torch.manual_seed(0)
    plain = ResNet(ResNetStages(depth, norm, width=8, **stages), frozen_stages)
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpoints_activations = True
    return plain.train(), checkpointed.train()


def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def loss_of(model, x):
    return sum(features.square().mean() for features in model(x))


def assert_same_training(plain, checkpointed, autocast=False):
    losses = []
    for model in (plain, checkpointed):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses.append(loss_of(model, images()))
        losses[-1].backward()
    assert torch.equal(*losses)
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name
    for (name, b), c in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(b, c), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("frozen_stages", [0, 3])
def test_losses_gradients_and_statistics_are_the_same_bit_for_bit(norm, frozen_stages):
    plain, checkpointed = pair(norm, frozen_stages)
    for _ in range(2):
        assert_same_training(plain, checkpointed)


@pytest.mark.parametrize(
    "stages", [{"depth": 18}, {"deformable": "v2"}, {"groups": 2, "group_width": 4}]
)
def test_every_kind_of_block_can_be_recomputed(stages):
    assert_same_training(*pair(**stages))


def test_the_autocast_type_is_that_of_the_forward_pass():
    assert_same_training(*pair(), autocast=True)


def test_statistics_are_tracked_again_after_the_backward_pass():
    _, checkpointed = pair()
    for step in (1, 2):
        loss_of(checkpointed, images()).backward()
        assert int(checkpointed.layer4[0].bn1.num_batches_tracked) == step


def saved_bytes(model, monkeypatch):
    """Return the size of all distinct tensors that the backward pass needs, bytes."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def keep_input(segment, x):
        keep(x)
        return checkpoint_segment(segment, x)

    monkeypatch.setattr(activation_checkpointing, "checkpoint_segment", keep_input)
    x = images()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, x)  # keeps all tensors alive, so that no address is used twice
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    loss.backward()
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize("norm", NORMS)
def test_less_than_half_is_kept_for_the_backward_pass(norm, monkeypatch):
    plain, checkpointed = pair(norm)
    assert saved_bytes(checkpointed, monkeypatch) < 0.5 * saved_bytes(plain, monkeypatch)


@pytest.mark.parametrize("mode", ["eval", "no_grad", "frozen"])
def test_nothing_is_recomputed_without_a_backward_pass(mode, monkeypatch):
    _, checkpointed = pair(frozen_stages=5 if mode == "frozen" else 0)
    monkeypatch.setattr(resnet, "checkpoint_blocks", None)
    with torch.set_grad_enabled(mode != "no_grad"):
        checkpointed.train(mode != "eval")(images())
