"""Validation losses are those of the whole split, whatever the ranks, batches and class numbers."""

import json

import pytest
import torch

from model import Category
from model.weights import load_network
from pipeline.config import RunConfig
from pipeline.evaluate.validation_losses import validation_losses
from tests.two_ranks import run_two_ranks

TERMS = {"box_class", "box_regression", "mask", "rpn_box", "rpn_objectness"}


def measure(detector, shards, rank=0, world_size=1, batch=4):
    config = RunConfig.model_validate({"evaluate": {"batch": batch}})
    config = config.model_copy(update={"model": detector.config})
    return validation_losses(detector, config, shards, rank, world_size)


@pytest.fixture
def detector(tiny_checkpoint):
    return load_network(tiny_checkpoint)


def test_the_loss_is_the_sum_of_its_terms_and_does_not_depend_on_the_batch(detector, shapes_shards):
    losses = measure(detector, shapes_shards)
    assert losses.keys() == {"loss", *(f"loss/{name}" for name in TERMS)}
    assert losses["loss"] == pytest.approx(sum(losses[f"loss/{name}"] for name in TERMS))
    # All images have one size, so no batch pads; sums of floats differ by their order.
    assert measure(detector, shapes_shards, batch=1) == pytest.approx(losses, rel=1e-4)
    assert not any(parameter.grad is not None for parameter in detector.parameters())


def test_better_weights_have_a_lower_loss(detector, shapes_shards):
    before = measure(detector, shapes_shards)["loss/rpn_objectness"]
    # Most anchors are background: a head that says so is better than one that cannot tell.
    torch.nn.init.constant_(detector.rpn.head.objectness.bias, -1.0)
    assert measure(detector, shapes_shards)["loss/rpn_objectness"] < before


def test_classes_are_matched_by_name(detector, shapes_shards):
    losses = measure(detector, shapes_shards)
    backwards = [*range(len(detector.categories), 0, -1)]
    renumbered = [Category(n, c.name) for n, c in zip(backwards, detector.categories, strict=True)]
    detector.categories = tuple(renumbered)
    assert measure(detector, shapes_shards) == pytest.approx(losses)
    swapped = (renumbered[1], renumbered[0], *renumbered[2:])
    detector.categories = tuple(swapped)
    changed = measure(detector, shapes_shards)
    assert changed["loss/box_class"] != pytest.approx(losses["loss/box_class"])
    assert changed["loss/rpn_box"] == pytest.approx(losses["loss/rpn_box"])


def measure_as_one_of_two(rank, folder, checkpoint, shards):
    losses = measure(load_network(checkpoint), shards, rank, 2)
    (folder / f"{rank}.json").write_text(json.dumps(losses))


def test_two_ranks_measure_what_one_measures(detector, shapes_shards, tiny_checkpoint, tmp_path):
    run_two_ranks(measure_as_one_of_two, tmp_path, tiny_checkpoint, shapes_shards)
    expected = measure(detector, shapes_shards)
    for rank in range(2):
        losses = json.loads((tmp_path / f"{rank}.json").read_text())
        assert losses == pytest.approx(expected, rel=1e-4)
