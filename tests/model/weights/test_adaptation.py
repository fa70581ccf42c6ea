"""Weights in a detector with other conventions: what can be converted computes the same."""

import pytest
import torch

from model import build_detector
from model.config import DETECTRON, DETECTRON2, TORCHVISION, Conventions
from model.layers.norm import convolve_and_normalize
from model.weights import load_weights, save_detector
from model.weights.adaptation import adapt_to_conventions, warn_about_folded_norms


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
    adapted, notes = adapt_to_conventions({name: variance}, theirs, ours, whole=False)
    torch.testing.assert_close(adapted[name] + 1e-5, variance + 1e-3)
    assert "0.001" in notes[0]


def test_norms_of_pyramid_and_heads_keep_their_own_epsilon():
    names = ("fpn.output_norms.0", "roi_heads.box.norms.0", "roi_heads.box.res5.0.bn1")
    tensors = {f"{name}.running_var": torch.ones(2) for name in names}
    theirs, ours = Conventions(norm_epsilon=1e-3), Conventions()
    adapted, _ = adapt_to_conventions(tensors, theirs, ours, whole=True)
    changed = [name for name in names if not adapted[f"{name}.running_var"].equal(torch.ones(2))]
    assert changed == ["roi_heads.box.res5.0.bn1"]


def test_another_dilation_is_reported_if_the_detector_dilates():
    for dilated in (True, False):
        _, notes = adapt_to_conventions({}, DETECTRON2, Conventions(), True, dilated)
        assert any("dilate_first_block = True" in note for note in notes) == dilated


def test_other_keypoint_coordinates_are_reported_if_there_are_keypoints():
    for name in ("roi_heads.keypoint.upsample.weight", "roi_heads.mask.upsample.weight"):
        tensors = {name: torch.ones(1)}
        _, notes = adapt_to_conventions(tensors, TORCHVISION, Conventions(), True)
        reported = any("keypoint_coordinates = pixel_numbers" in note for note in notes)
        assert reported == ("keypoint" in name)


def test_conventions_that_cannot_be_converted_are_reported():
    bottleneck = {"backbone.layer1.0.conv3.weight": torch.ones(1)}
    _, backbone_notes = adapt_to_conventions(bottleneck, DETECTRON, Conventions(), whole=False)
    assert any("stride_in_1x1 = True" in note for note in backbone_notes)
    assert not any("roi_aligned" in note for note in backbone_notes)
    _, detector_notes = adapt_to_conventions(bottleneck, DETECTRON, Conventions(), whole=True)
    for key in ("stride_in_1x1", "roi_aligned", "legacy_geometry"):
        assert any(f"{key} = " in note for note in detector_notes)
    # Basic blocks stride in their 3x3 either way.
    assert not any(
        "stride" in n for n in adapt_to_conventions({}, DETECTRON, Conventions(), False)[1]
    )


def test_folded_norms_in_a_trained_norm_are_reported():
    folded = {"backbone.bn1.running_mean": torch.zeros(4)}
    assert warn_about_folded_norms(folded, "frozen_bn") == ()
    assert "use frozen_bn" in warn_about_folded_norms(folded, "batch_norm")[0]
    measured = {"backbone.bn1.running_mean": torch.ones(4)}
    assert warn_about_folded_norms(measured, "batch_norm") == ()
