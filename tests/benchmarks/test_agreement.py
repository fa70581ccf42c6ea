"""Detections count as equal if class, box, score and mask are."""

import dataclasses

import pytest
import torch

from benchmarks.agreement import count_equal
from model.detections import Detections
from model.structures import ImageSize


@pytest.fixture
def ours():
    boxes = torch.tensor([[10.0, 10, 50, 60], [30, 20, 90, 80], [0, 0, 20, 20]])
    return Detections(
        boxes=boxes,
        scores=torch.tensor([0.9, 0.8, 0.7]),
        labels=torch.tensor([1, 2, 1]),
        masks=torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0)),
        image_size=ImageSize(100, 120),
    )


@pytest.fixture
def peer(ours):
    bitmaps = ours.bitmaps().bool()
    return {"boxes": ours.boxes, "scores": ours.scores, "labels": ours.labels, "masks": bitmaps}


def test_the_same_detections_are_equal_in_any_order(ours, peer):
    reversed_peer = {name: value.flip(0) for name, value in peer.items()}
    assert count_equal(ours, peer) == count_equal(ours, reversed_peer) == 3


@pytest.mark.parametrize(
    ("name", "change"), [("boxes", 0.06), ("scores", 0.002), ("labels", 1)], ids=str
)
def test_a_detection_that_differs_is_not_equal(ours, peer, name, change):
    changed = peer[name].clone()
    changed[0] += change
    assert count_equal(ours, peer | {name: changed}) == 2


def test_a_mask_that_differs_in_a_twentieth_of_its_pixels_is_not_equal(ours, peer):
    masks = peer["masks"].clone()
    pixels = masks[0].nonzero()
    masks[0][tuple(pixels[: len(pixels) // 20].T)] = False
    assert count_equal(ours, peer | {"masks": masks}) == 2


def test_a_detection_counts_once_and_none_without_detections(ours, peer):
    first = torch.zeros(3, dtype=torch.int64)
    assert count_equal(ours[first], peer) == 1
    assert count_equal(ours, {name: value[:0] for name, value in peer.items()}) == 0
    none = dataclasses.replace(ours, masks=None)[torch.zeros(0, dtype=torch.int64)]
    assert count_equal(none, peer) == 0
