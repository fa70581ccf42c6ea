"""Every kind of model of Detectron: no tensor is left over, and ours computes the same."""

import functools

import numpy as np
import pytest
import torch

from model import build_detector
from model.config import KeypointHeadConfig
from model.weights import WeightsError, load_network, load_weights
from model.weights.__main__ import main
from model.weights.load import read_detector
from tests.model.weights.detectron.blobs import KINDS, make_blobs, write
from tests.model.weights.detectron.model_layers import Layers
from tests.model.weights.detectron.reference_network import (
    Network,
    assert_same_anchors,
    assert_same_architecture,
    assert_same_maps,
    assert_same_roi_heads,
)

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
        layers = Layers(kind, statistics=False)
        path = write(tmp_path_factory.mktemp("weights") / "model.pkl", make_blobs(kind, layers))
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
    """List size and ratio of the anchors of a cell on the finest map, in Detectron's order."""
    anchors = []
    if "retinanet" in kind.heads:
        for octave in range(3):
            for aspect in (1.0, 2.0, 0.5):
                anchors.append((8 * 4 * 2 ** (octave / 3), aspect))
        return anchors
    sizes = [32.0] if kind.features == "fpn" else [32.0, 64.0, 128.0, 256.0, 512.0]
    for aspect in (0.5, 1.0, 2.0):
        for size in sizes:
            anchors.append((size, aspect))
    return anchors


@pytest.mark.parametrize("name", ["mask", "proposals", "mask C4", "proposals C4", "retinanet"])
def test_every_anchor_has_its_own_rows(load, name):
    detector, _, network, _ = load(name)
    assert_same_anchors(detector, network, cell_anchors(network.kind))


def test_stated_ratios_are_assumed_to_be_in_the_order_of_the_file(load):
    _, _, network, path = load("retinanet")
    stated = {"retinanet.anchor_ratios": (0.5, 2.0, 1.0)}
    detector, report = read_detector(path, conventions=stated)
    assert detector.config.retinanet.anchor_ratios == (0.5, 2.0, 1.0)
    anchors = [(32 * 2 ** (octave / 3), ratio) for octave in range(3) for ratio in (0.5, 2.0, 1.0)]
    assert_same_anchors(detector, network, anchors)
    assert not any("assumed the anchor ratios" in note for note in report.notes)
    assert any("assumed the anchor ratios" in note for note in load("retinanet")[1].notes)


def test_settings_that_weights_do_not_store_match_the_published_configs(load):
    one_stage = load("retinanet")[0].config.retinanet
    assert one_stage.delta_weights == (1, 1, 1, 1)
    assert (one_stage.smooth_l1_beta, one_stage.box_loss_weight) == (0.11, 1)
    assert (one_stage.score_threshold, one_stage.nms_iou, one_stage.pre_nms) == (0.05, 0.5, 1000)
    assert (one_stage.p6_from, one_stage.layers, one_stage.anchor_scales) == ("c5", 4, 3)
    assert one_stage.anchor_ratios == (0.5, 1, 2)
    config = load("mask C4")[0].config
    assert (config.rpn.pre_nms_train, config.rpn.pre_nms_test) == (12000, 6000)
    assert (config.box.pool_side, config.conventions.roi_sampling_ratio) == (14, 0)
    config = load("mask GN")[0].config
    assert (config.box.conv_layers, config.box.fc_layers, config.box.norm) == (4, 1, "group_norm")
    assert (config.fpn.norm, config.mask.norm) == ("group_norm", "group_norm")
    assert (config.rpn.pre_nms_test, config.conventions.roi_sampling_ratio) == (1000, 2)
    detector, report, _, _ = load("keypoint")
    assert detector.config.keypoint.names == KeypointHeadConfig().names
    assert (detector.config.num_classes, detector.config.keypoint.channels) == (1, 24)
    assert detector.categories[0].name == "person"
    assert report.ignored.keys() >= {"kps_score_w", "kps_score_b"}
    assert any("fade toward their border" in note for note in report.notes)
    assert load("proposals")[0].config.num_classes == 1
    assert load("faster class-agnostic")[0].config.box.class_agnostic


def test_a_c4_proposal_network_ignores_a_left_over_res5(load):
    report = load("proposals C4")[1]
    assert "proposals read res4" in report.ignored["res5_0_branch2a_w"]


@pytest.mark.parametrize("name", ["mask C4", "retinanet"])
def test_a_converted_model_loads_as_the_original(load, name, tmp_path):
    detector, _, _, path = load(name)
    assert main(["convert", str(path), "--to", str(tmp_path / "ours")]) == 0
    again = load_network(tmp_path / "ours")
    assert again.config == detector.config
    for key, tensor in again.state_dict().items():
        assert tensor.equal(detector.state_dict()[key])


@pytest.mark.parametrize("change", ["trained", "absent", "wider"])
def test_heatmaps_without_bilinear_upsampling_are_refused(load, change, tmp_path):
    network = load("keypoint")[2]
    blobs = make_blobs(network.kind, network.layers)
    if change == "absent":
        del blobs["kps_score_lowres_w"]
    elif change == "wider":
        blobs["kps_score_w"] = np.ones((17, 17, 8, 8), np.float32)
    else:
        blobs["kps_score_w"][3, 3, 1, 1] = 0.5
    with pytest.raises(WeightsError, match="Keypoint R-CNN without bilinear upsampling"):
        load_network(write(tmp_path / "model.pkl", blobs))


def backbone_blobs(name, load):
    network = load(name)[2]
    blobs = make_blobs(network.kind, network.layers)
    kept = ("conv1_w", "conv1_gn", "res_conv1", "res2", "res3", "res4", "res5")
    return {n: blob for n, blob in blobs.items() if n.startswith(kept) and "momentum" not in n}


def test_a_backbone_with_group_norm_strides_in_its_3x3(load, tmp_path):
    path = write(tmp_path / "R-50-GN.pkl", backbone_blobs("mask GN", load))
    theirs = load("mask GN")[0]
    ours = build_detector(theirs.config.model_copy(update={"mask": None}))
    report = load_weights(ours, path)
    assert report.problems(parts_may_differ=True) == []
    assert report.notes == ()
    for key, tensor in ours.backbone.state_dict().items():
        assert tensor.equal(theirs.backbone.state_dict()[key])


def test_a_resnext_with_statistics_keeps_them(load, tmp_path):
    blobs, rng = backbone_blobs("mask X-101", load), np.random.default_rng(0)
    scales = [name for name in blobs if name.endswith("_bn_s")]
    for name in scales:
        norm = name.removesuffix("_s")
        blobs[f"{norm}_rm"] = rng.standard_normal(blobs[name].shape).astype(np.float32)
        blobs[f"{norm}_riv"] = rng.random(blobs[name].shape).astype(np.float32)
    path = write(tmp_path / "X-101-32x8d.pkl", blobs)
    config = load("mask X-101")[0].config
    pixels = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)}
    conventions = config.conventions.model_copy(update=pixels | {"norm_epsilon": 1e-5})
    ours = build_detector(config.model_copy(update={"mask": None, "conventions": conventions}))
    report = load_weights(ours, path)
    assert report.problems(parts_may_differ=True) == []
    assert report.notes == ()
    state = ours.backbone.state_dict()
    mean, var = blobs["res4_22_branch2c_bn_rm"], blobs["res4_22_branch2c_bn_riv"]
    assert state["layer3.22.bn3.running_mean"].equal(torch.from_numpy(mean))
    assert state["layer3.22.bn3.running_var"].equal(torch.from_numpy(var))
