"""Weights in a detector with other conventions: what can be converted computes the same."""

import pytest
import torch

from model import build_detector
from model.config import DETECTRON, DETECTRON2, MMDETECTION, TORCHVISION, Conventions
from model.layers.norm import convolve_and_normalize
from model.weights import load_weights, save_detector
from model.weights.adaptation import (
    adapt_to_conventions,
    list_other_settings,
    warn_about_folded_norms,
)
from model.weights.conflicts import Conflict


def stem(detector, image):
    conventions = detector.config.conventions
    pixels = image.flip(1) if conventions.pixel_order == "bgr" else image
    mean, std = torch.tensor([conventions.pixel_mean, conventions.pixel_std]).view(2, 3, 1, 1)
    x = (pixels - mean) / std
    return convolve_and_normalize(x, detector.backbone.conv1, detector.backbone.bn1)


FROZEN = {"depth": 18, "norm": "frozen_bn", "width": 8, "frozen_stages": 2}


@pytest.mark.parametrize(
    "theirs", [DETECTRON, DETECTRON2, TORCHVISION], ids=["detectron", "d2", "tv"]
)
@pytest.mark.parametrize(
    "ours", [DETECTRON, DETECTRON2, Conventions()], ids=["detectron", "d2", "own"]
)
def test_the_stem_computes_what_it_did_with_the_old_conventions(
    tiny_config, tmp_path, theirs, ours
):
    torch.manual_seed(0)
    source = build_detector(tiny_config(backbone=FROZEN, conventions=theirs))
    source.backbone.bn1.running_mean.normal_()
    source.backbone.bn1.running_var.uniform_(0.5, 2)
    save_detector(source, tmp_path)
    target = build_detector(tiny_config(backbone=FROZEN, conventions=ours))
    load_weights(target, tmp_path)
    image = 255 * torch.rand(1, 3, 32, 40)
    # Except at the border, where the padding of zeros represents another mean.
    expected, actual = (stem(d, image)[:, :, 2:-2, 2:-2] for d in (source, target))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_equal_conventions_change_no_bit(tiny_config, tmp_path):
    source = build_detector(tiny_config(backbone=FROZEN))
    save_detector(source, tmp_path)
    target = build_detector(tiny_config(backbone=FROZEN))
    report = load_weights(target, tmp_path)
    assert report.notes == ()
    assert target.backbone.conv1.weight.equal(source.backbone.conv1.weight)


def test_an_epsilon_moves_into_the_variance():
    ours = Conventions(norm_epsilon=1e-5)
    variance = torch.tensor([1.0, 1e-6, 0.0])
    theirs = Conventions(norm_epsilon=1e-3)
    name = "backbone.layer1.0.bn1.running_var"
    adapted, conflicts = adapt_to_conventions({name: variance}, theirs, ours, whole=False)
    torch.testing.assert_close(adapted[name] + 1e-5, variance + 1e-3)
    assert conflicts == (Conflict("conventions.norm_epsilon", 1e-3, 1e-5, converted=True),)


def test_norms_of_pyramid_and_heads_keep_their_own_epsilon():
    names = ("fpn.output_norms.0", "roi_heads.box.norms.0", "roi_heads.box.res5.0.bn1")
    tensors = {f"{name}.running_var": torch.ones(2) for name in names}
    theirs, ours = Conventions(norm_epsilon=1e-3), Conventions()
    adapted, _ = adapt_to_conventions(tensors, theirs, ours, whole=True)
    changed = [name for name in names if not adapted[f"{name}.running_var"].equal(torch.ones(2))]
    assert changed == ["roi_heads.box.res5.0.bn1"]


def test_another_dilation_is_reported_if_the_detector_dilates():
    for dilated in (True, False):
        _, conflicts = adapt_to_conventions({}, DETECTRON2, Conventions(), True, dilated)
        reported = Conflict("conventions.dilate_first_block", True, False) in conflicts
        assert reported == dilated


def test_a_missing_relu_before_p7_is_reported_if_there_is_a_retinanet():
    for name in ("retinanet.class_logits.weight", "roi_heads.mask.upsample.weight"):
        _, conflicts = adapt_to_conventions({name: torch.ones(1)}, MMDETECTION, Conventions(), True)
        reported = Conflict("conventions.relu_before_p7", False, True) in conflicts
        assert reported == name.startswith("retinanet")


def test_other_keypoint_coordinates_are_reported_if_there_are_keypoints():
    for name in ("roi_heads.keypoint.upsample.weight", "roi_heads.mask.upsample.weight"):
        tensors = {name: torch.ones(1)}
        _, conflicts = adapt_to_conventions(tensors, TORCHVISION, Conventions(), True)
        key = "conventions.keypoint_coordinates"
        reported = Conflict(key, "pixel_numbers", "continuous") in conflicts
        assert reported == ("keypoint" in name)


def test_conventions_that_cannot_be_converted_are_reported():
    bottleneck = {"backbone.layer1.0.conv3.weight": torch.ones(1)}

    def reported(tensors, whole):
        conflicts = adapt_to_conventions(tensors, DETECTRON, Conventions(), whole)[1]
        return {c.name for c in conflicts if not c.converted}

    assert reported(bottleneck, whole=False) == {"stride_in_1x1"}
    in_detector = {"stride_in_1x1", "roi_aligned", "legacy_geometry", "resize_filter"}
    assert reported(bottleneck, whole=True) == in_detector
    # Basic blocks stride in their 3x3 either way.
    assert reported({}, whole=False) == set()


def test_one_warning_names_every_setting_that_training_changes(tiny_config, tmp_path, caplog):
    theirs = {
        "conventions": DETECTRON,
        "box": {"hidden": 64, "delta_weights": (1.0, 1.0, 1.0, 1.0)},
        "rpn": {"anchor_sizes": (8, 16, 32, 64, 128)},
    }
    save_detector(build_detector(tiny_config(backbone=FROZEN, **theirs)), tmp_path)
    target = build_detector(tiny_config(backbone=FROZEN))
    caplog.clear()
    [note] = load_weights(target, tmp_path).notes
    [warning] = caplog.messages
    assert warning == f"{tmp_path}: {note}"
    for line in (
        "The settings of the detector are used:",
        'model.conventions.pixel_order = "rgb" (the weights: "bgr"; converted)',
        "model.conventions.norm_epsilon = 1e-05 (the weights: 0.0; converted)",
        "model.conventions.roi_aligned = true (the weights: false)",
        "model.box.delta_weights = [10.0, 10.0, 5.0, 5.0] (the weights: [1.0, 1.0, 1.0, 1.0])",
        "model.rpn.anchor_sizes = [8.0, 16.0, 32.0, 48.0, 64.0] (the weights: [8.0, 16.0, 32.0, ",
    ):
        assert line in warning
    assert warning.count("model.rpn.") + warning.count("model.box.") == 2


def test_a_pyramid_does_not_inherit_the_anchors_of_c4_weights(tiny_config):
    c4 = {"features": "c4", "depth": 50, "norm": "frozen_bn"}
    theirs = tiny_config(backbone=c4, box={"pool_side": 14}, input={"size_divisor": 1})
    assert list_other_settings(theirs, tiny_config()) == ()
    same = tiny_config(backbone=c4, box={"pool_side": 14})
    [other] = list_other_settings(theirs, same)
    assert (other.key, other.in_weights, other.in_config) == ("input.size_divisor", 1, 32)


def test_folded_norms_in_a_trained_norm_are_reported():
    folded = {"backbone.bn1.running_mean": torch.zeros(4), "backbone.bn1.bias": torch.ones(4)}
    assert warn_about_folded_norms(folded, "frozen_bn") == ()
    assert "use frozen_bn" in warn_about_folded_norms(folded, "batch_norm")[0]
    measured = {"backbone.bn1.running_mean": torch.ones(4)}
    assert warn_about_folded_norms(measured, "batch_norm") == ()


def test_norms_that_were_not_trained_yet_are_not_reported_as_folded():
    new = {"backbone.bn1.running_mean": torch.zeros(4), "backbone.bn1.bias": torch.zeros(4)}
    assert warn_about_folded_norms(new, "batch_norm") == ()
