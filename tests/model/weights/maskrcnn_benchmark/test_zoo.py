"""Every kind of model of maskrcnn-benchmark: no tensor is left over, and ours computes the same."""

import functools

import pytest
import torch

from model import ModelConfig, build_detector
from model.config import KeypointHeadConfig
from model.weights import WeightsError, load_network, load_weights
from model.weights.__main__ import main
from model.weights.load import read_detector
from tests.model.weights.detectron.model_layers import Layers
from tests.model.weights.detectron.reference_network import (
    Network,
    assert_same_anchors,
    assert_same_architecture,
    assert_same_maps,
    assert_same_roi_heads,
)
from tests.model.weights.maskrcnn_benchmark.state_dicts import KINDS, make_state_dict

# Their maps are those of "mask" or "mask C4".
SAME_MAPS = (
    "faster class-agnostic",
    "faster of convolutions",
    "keypoint",
    "proposals",
    "faster C4",
)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    @functools.cache
    def load(name):
        kind = KINDS[name]
        layers = Layers(kind, statistics=True)
        path = tmp_path_factory.mktemp("weights") / "model_final.pth"
        torch.save({"model": make_state_dict(kind, layers)}, path)
        detector, report = read_detector(path)
        return detector.eval(), report, Network(kind, layers), path

    return load


@pytest.mark.parametrize("name", KINDS)
def test_no_tensor_is_left_over_and_the_architecture_is_inferred(load, name):
    detector, report, network, _ = load(name)
    assert_same_architecture(detector, report, network.kind)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in SAME_MAPS])
def test_feature_maps_equal_the_reference(load, name):
    detector, _, network, _ = load(name)
    assert_same_maps(detector, network)


@pytest.mark.parametrize("name", [name for name in KINDS if "boxes" in KINDS[name].heads])
def test_roi_heads_equal_the_reference(load, name):
    detector, _, network, _ = load(name)
    assert_same_roi_heads(detector, network)


def cell_anchors(kind):
    """List size and ratio of the anchors of a cell on the finest map, by ratio first."""
    sizes = [32.0] if kind.features == "fpn" else [32.0, 64.0, 128.0, 256.0, 512.0]
    if "retinanet" in kind.heads:
        sizes = [32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]
    anchors = []
    for ratio in (0.5, 1.0, 2.0):
        for size in sizes:
            anchors.append((size, ratio))
    return anchors


@pytest.mark.parametrize("name", ["mask", "proposals", "mask C4", "proposals C4", "retinanet"])
def test_every_anchor_has_its_own_rows(load, name):
    detector, _, network, _ = load(name)
    assert_same_anchors(detector, network, cell_anchors(network.kind))


def test_settings_that_weights_do_not_store_match_the_published_configs(load):
    config = load("retinanet")[0].config
    one_stage = config.retinanet
    assert one_stage.delta_weights == (10, 10, 5, 5)
    assert (one_stage.smooth_l1_beta, one_stage.box_loss_weight) == (0.11, 0.25)
    assert (one_stage.score_threshold, one_stage.nms_iou, one_stage.pre_nms) == (0.05, 0.4, 1000)
    assert (one_stage.p6_from, one_stage.layers, one_stage.anchor_scales) == ("c5", 4, 3)
    assert load("retinanet P5")[0].config.retinanet.p6_from == "p5"
    config = load("mask C4")[0].config
    assert (config.rpn.pre_nms_train, config.rpn.pre_nms_test) == (12000, 6000)
    assert (config.box.pool_side, config.conventions.roi_sampling_ratio) == (14, 0)
    config = load("mask GN")[0].config
    assert (config.box.conv_layers, config.box.fc_layers, config.box.norm) == (4, 1, "group_norm")
    assert (config.fpn.norm, config.mask.norm) == ("group_norm", "group_norm")
    assert (config.rpn.pre_nms_test, config.conventions.roi_sampling_ratio) == (1000, 2)
    config = load("keypoint")[0].config
    assert config.keypoint.names == KeypointHeadConfig().names
    assert (config.num_classes, config.keypoint.layers, config.keypoint.channels) == (1, 8, 24)
    assert load("keypoint")[0].categories[0].name == "person"
    assert load("proposals")[0].config.num_classes == 1
    assert load("faster class-agnostic")[0].config.box.class_agnostic


def test_explicit_settings_are_kept(load):
    given, stated = ModelConfig(rpn={"pre_nms_test": 500}), {"roi_sampling_ratio": 2}
    config = load_network(load("mask C4")[3], given, conventions=stated).config
    assert (config.rpn.pre_nms_test, config.rpn.pre_nms_train) == (500, 12000)
    assert config.conventions.roi_sampling_ratio == 2
    given = ModelConfig.model_validate(
        {"box": None, "mask": None, "retinanet": {"nms_iou": 0.6, "score_threshold": 0.2}}
    )
    one_stage = load_network(load("retinanet")[3], given, detections_per_image=7).config.retinanet
    assert (one_stage.nms_iou, one_stage.score_threshold) == (0.6, 0.2)
    assert (one_stage.box_loss_weight, one_stage.detections_per_image) == (0.25, 7)


@pytest.mark.parametrize("name", ["mask C4", "mask DCN v2", "retinanet"])
def test_a_converted_model_loads_as_the_original(load, name, tmp_path):
    detector, _, _, path = load(name)
    assert main(["convert", str(path), "--to", str(tmp_path / "ours")]) == 0
    again = load_network(tmp_path / "ours")
    assert again.config == detector.config
    for key, tensor in again.state_dict().items():
        assert tensor.equal(detector.state_dict()[key])


def test_a_res5_shared_by_both_heads_is_read_once(load):
    detector, report, network, _ = load("mask C4")
    copies = [name for name in report.ignored if name.startswith("roi_heads.mask.")]
    assert len(copies) == len(detector.roi_heads.box.res5.state_dict())
    state = make_state_dict(network.kind, network.layers)
    first = "roi_heads.mask.feature_extractor.head.layer4.1.conv2.weight"
    assert first in copies
    for change in (state[first] + 1e-3, state[first][:1]):
        torch.save({"model": state | {first: change}}, path := load("mask C4")[3].with_name("own"))
        with pytest.raises(WeightsError, match=r"its own res5 .*layer4\.1\.conv2"):
            load_network(path)


def test_training_may_start_from_its_deformable_backbone(load):
    detector, _, _, path = load("mask DCN v2")
    ours = build_detector(detector.config.model_copy(update={"mask": None}))
    assert load_weights(ours, path).problems(parts_may_differ=True) == []
    name = "layer3.5.conv2_offset.weight"
    assert ours.backbone.state_dict()[name].equal(detector.backbone.state_dict()[name])
