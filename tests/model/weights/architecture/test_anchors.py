"""Anchors of weights: as stored by detectron2 and maskrcnn-benchmark, or as a config states them.

The expected anchors are computed as these libraries do.
"""

import math

import numpy as np
import pytest
import torch

from model import ModelConfig
from model.config import DETECTRON2, RpnConfig
from model.weights import WeightsError, load_network, read_conventions
from model.weights.architecture.anchors import (
    AnchorCountError,
    check_anchor_count,
    read_stored_anchors,
    take_stated_anchors,
)
from tests.model.weights.detectron2 import zoo
from tests.model.weights.library_cases import CONFIGS

PYRAMID = [(16,), (32,), (64,), (128,), (256,)]
OCTAVES = [tuple(size * 2 ** (step / 3) for step in range(3)) for size in (20, 40, 80, 160, 320)]


def detectron2_anchors(sizes, ratios):
    anchors = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(anchors)


def maskrcnn_benchmark_anchors(sizes, ratios, stride):
    anchors = []
    for ratio in ratios:
        width = round(math.sqrt(stride**2 / ratio))
        height = round(width * ratio)
        for size in sizes:
            scaled = np.array([width, height]) * size / stride
            center = (stride - 1) / 2
            anchors.append([*(center - (scaled - 1) / 2), *(center + (scaled - 1) / 2)])
    return torch.tensor(np.array(anchors), dtype=torch.float32)


def read(tensors, config=None, one_stage=False, *, by_size):
    config, notes = read_stored_anchors(tensors, config or ModelConfig(), one_stage, by_size)
    assert notes == ()
    return config


def stored(prefix, levels):
    return {
        f"{prefix}anchor_generator.cell_anchors.{number}": anchors
        for number, anchors in enumerate(levels)
    }


@pytest.mark.parametrize("sizes", [PYRAMID, [(64, 128, 512)]], ids=["pyramid", "one map"])
def test_anchors_that_detectron2_stores_are_read(sizes):
    ratios = (0.333333, 0.5, 1.0, 2.0)
    levels = [detectron2_anchors(level, ratios) for level in sizes]
    tensors = stored("proposal_generator.", levels)
    config = read(tensors, by_size=True)
    assert config.rpn.anchor_sizes == tuple(size for level in sizes for size in level)
    assert config.rpn.anchor_ratios == ratios


def test_octaves_of_retinanet_that_detectron2_stores_are_read():
    levels = [detectron2_anchors(level, (0.5, 1.0, 2.0)) for level in OCTAVES]
    tensors = stored("", levels)
    config = read(tensors, one_stage=True, by_size=True)
    assert config.retinanet.anchor_sizes == (20, 40, 80, 160, 320)
    assert config.retinanet.anchor_ratios == (0.5, 1, 2)
    assert config.rpn == RpnConfig()


@pytest.mark.parametrize("sizes", [PYRAMID, [(128, 256, 512)]], ids=["pyramid", "one map"])
def test_sizes_that_maskrcnn_benchmark_stores_are_read(sizes):
    strides = (4, 8, 16, 32, 64) if len(sizes) == 5 else (16,)
    levels = [
        maskrcnn_benchmark_anchors(level, (0.5, 1.0, 2.0), stride)
        for level, stride in zip(sizes, strides, strict=True)
    ]
    tensors = stored("rpn.", levels)
    config = read(tensors, by_size=False)
    assert config.rpn.anchor_sizes == tuple(size for level in sizes for size in level)
    assert config.rpn.anchor_ratios == RpnConfig().anchor_ratios


def test_octaves_that_maskrcnn_benchmark_stores_are_read():
    levels = [
        maskrcnn_benchmark_anchors(level, (0.5, 1.0, 2.0), stride)
        for level, stride in zip(OCTAVES, (8, 16, 32, 64, 128), strict=True)
    ]
    config = read(stored("rpn.", levels), one_stage=True, by_size=False)
    assert config.retinanet.anchor_sizes == (20, 40, 80, 160, 320)


def test_stated_anchors_replace_stored_ones():
    levels = [detectron2_anchors(level, (1.0, 2.0)) for level in PYRAMID]
    given = ModelConfig(rpn={"anchor_sizes": (1, 2, 3, 4, 5)})
    config = read(stored("", levels), given, by_size=True)
    assert config.rpn.anchor_sizes == (1, 2, 3, 4, 5)
    assert config.rpn.anchor_ratios == (1, 2)


def test_placeholders_are_no_anchors():
    for tensors in ({}, stored("rpn.", [torch.zeros(3, 4)])):
        for by_size in (True, False):
            assert read(tensors, by_size=by_size) == ModelConfig()


@pytest.mark.parametrize(
    ("levels", "one_stage", "message"),
    [
        ([detectron2_anchors((8, 16), (1.0, 2.0))[[0, 1, 3]]], False, "every size in every ratio"),
        (
            [detectron2_anchors((8, 24), (1.0, 2.0))],
            True,
            "24.0] are not spread over an octave",
        ),
        (
            [detectron2_anchors((8,), (1.0, number)) for number in (2.0, 2.0, 2.0, 3.0, 2.0)],
            False,
            "ratios differ between levels",
        ),
    ],
)
def test_anchors_that_no_config_describes_are_reported(levels, one_stage, message):
    tensors = stored("", levels)
    config, [note] = read_stored_anchors(tensors, ModelConfig(), one_stage, by_size=True)
    assert config == ModelConfig()
    assert message in note


def test_without_square_anchors_the_sizes_of_maskrcnn_benchmark_are_unknown():
    for one_stage in (True, False):
        levels = [maskrcnn_benchmark_anchors((64, 128), (0.5, 2.0), 16)]
        tensors = stored("rpn.", levels)
        _, [note] = read_stored_anchors(tensors, ModelConfig(), one_stage, by_size=False)
        assert "none of them is a square" in note


def test_the_number_of_anchors_must_be_that_of_the_config():
    tensors = {"rpn.head.objectness.weight": torch.zeros(9, 4, 1, 1)}
    c4 = {"backbone": {"features": "c4"}, "box": {"pool_side": 14}}
    sizes = {"rpn": {"anchor_sizes": (128, 256, 512)}}
    check_anchor_count(tensors, ModelConfig.model_validate(c4 | sizes))
    for tree in (c4, {}):
        with pytest.raises(AnchorCountError, match=r"9 anchors per cell .* set model\.rpn\.anchor"):
            check_anchor_count(tensors, ModelConfig.model_validate(tree))


def test_stated_anchors_are_taken_from_another_config():
    ours = ModelConfig(rpn={"anchor_sizes": (1, 2, 3, 4, 5)})
    theirs = ModelConfig(rpn={"anchor_sizes": (6, 7, 8, 9, 10), "anchor_ratios": (1,)})
    taken = take_stated_anchors(ours, theirs).rpn
    assert (taken.anchor_sizes, taken.anchor_ratios) == ((1, 2, 3, 4, 5), (1,))
    assert take_stated_anchors(ours, ModelConfig()) == ours


@pytest.fixture
def voc(tmp_path):
    """Pascal VOC's C4 models have three anchor sizes instead of five."""
    state = zoo.make_weights(zoo.ZOO["VOC"])
    for layer in ("objectness_logits", "anchor_deltas"):
        for kind in ("weight", "bias"):
            name = f"proposal_generator.rpn_head.{layer}.{kind}"
            state[name] = state[name][: len(state[name]) // 15 * 9]
    torch.save(state, tmp_path / "voc.pth")
    return tmp_path / "voc.pth"


def test_a_config_has_the_anchors_of_weights_with_another_number_of_them(voc):
    with pytest.raises(WeightsError, match=r"9 anchors per cell .*set model\.rpn\.anchor_sizes"):
        load_network(voc)
    recipe = CONFIGS / "pascal_voc" / "faster_rcnn_r50_c4_voc2007.yaml"
    assert load_network(voc, recipe).config.rpn.anchor_sizes == (128, 256, 512)
    stated = {"rpn.anchor_sizes": (64, 128, 256)}
    detector = load_network(voc, recipe, conventions=stated)
    assert detector.config.rpn.anchor_sizes == (64, 128, 256)


def test_training_may_start_from_weights_with_another_number_of_anchors(voc):
    assert read_conventions(voc, ModelConfig()) == DETECTRON2
