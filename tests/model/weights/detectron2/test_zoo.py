"""Every kind of model in detectron2's zoo: no tensor is left over, and ours computes the same."""

import functools

import pytest
import torch

from model import ModelConfig
from model.structures import ImageBatch, ImageSize
from model.weights import WeightsError, load_network
from model.weights.__main__ import main
from model.weights.load import read_detector
from tests.model.weights.detectron2 import reference_layers as reference
from tests.model.weights.detectron2.zoo import HEAD, HIDDEN, PYRAMID, STEM, ZOO, make_weights

RATIOS = [0.5, 1.0, 2.0]
# One of each kind of backbone and pyramid.
BODIES = {
    (m.depth, m.features, m.norm, m.groups, m.deform, m.one_stage): name for name, m in ZOO.items()
}.values()
CANVAS = ImageSize(32, 64)
# fp32 sums in another order, through up to 100 layers.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@functools.cache
def weights(name):
    return make_weights(ZOO[name])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Function: name -> detector and report, loaded once."""

    @functools.cache
    def load(name):
        path = tmp_path_factory.mktemp("zoo") / "model_final.pth"
        torch.save({"model": weights(name)}, path)
        detector, report = read_detector(path)
        return detector.eval(), report

    return load


def with_(part):
    return pytest.mark.parametrize("name", [name for name in ZOO if part(ZOO[name])])


def pooled(detector, rois, side):
    channels = detector.rpn.head.convs[0].in_channels
    return torch.randn(rois, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ZOO)
def test_no_tensor_is_left_over(loaded, name):
    report = loaded(name)[1]
    assert report.problems() == []
    assert not report.ignored
    unread = [n for n in weights(name) if n.endswith("num_batches_tracked")]
    assert len(report.loaded) >= len(weights(name)) - len(unread)


@pytest.mark.parametrize("name", ZOO)
def test_the_architecture_is_inferred(loaded, name):
    model, config = ZOO[name], loaded(name)[0].config
    assert config.num_classes == (model.classes if model.rois or model.one_stage else 1)
    backbone = config.backbone
    assert (backbone.depth, backbone.width, backbone.groups) == (model.depth, STEM, model.groups)
    assert backbone.features == model.features
    norms = {"gn": "group_norm", "syncbn": "batch_norm"}
    assert backbone.norm == norms.get(model.norm, "frozen_bn")
    assert backbone.deformable == {0: "none", 18: "v1", 27: "v2"}[model.deform]
    assert config.fpn.norm == norms.get(model.norm, "none")
    assert config.rpn.layers == model.rpn_layers
    heads = (config.box, config.mask, config.keypoint, config.retinanet)
    expected = (model.rois, model.masks, model.keypoints > 0, model.one_stage)
    assert tuple(head is not None for head in heads) == expected
    if model.features == "fpn":
        assert config.fpn.channels == PYRAMID
    if model.rois and model.features != "c4":
        box = config.box
        assert (box.conv_layers, box.fc_layers) == (model.convs, 1 if model.convs else 2)
        assert (box.hidden, box.pool_side) == (HIDDEN, 7)
        assert box.norm == (norms.get(model.norm, "none") if model.convs else "none")
    if model.masks:
        assert config.mask.norm == norms.get(model.norm, "none")
        assert (config.mask.layers, config.mask.channels) == (
            0 if model.features == "c4" else 4,
            HEAD,
        )
        assert config.mask.class_agnostic == config.box.class_agnostic == model.agnostic
    if model.one_stage:
        assert (config.retinanet.p6_from, config.retinanet.smooth_l1_beta) == ("c5", 0)


@pytest.mark.parametrize("name", BODIES)
def test_feature_maps_equal_the_reference(loaded, name):
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (1, 3, *CANVAS), generator=generator, dtype=torch.uint8)
    expected = reference.backbone(weights(name), ZOO[name], image.float())
    with torch.inference_mode():
        maps = loaded(name)[0].features(ImageBatch(image, (CANVAS,), (CANVAS,)))
    assert len(maps) == (5 if ZOO[name].features == "fpn" else 1)
    for feature, reference_map in zip(maps, expected, strict=True):
        scale = reference_map.std()
        assert scale > 0.01
        torch.testing.assert_close(feature / scale, reference_map / scale, **CLOSE)


def anchors_by_cell(sizes, height, width, stride):
    """Return detectron2's anchors (H, W, A, 4), in its order."""
    cell = torch.tensor(list(reference.cell_anchors(sizes, RATIOS)))
    boxes = torch.empty(height, width, len(cell), 4)
    for row in range(height):
        for column in range(width):
            boxes[row, column] = cell + stride * torch.tensor([column, row, column, row])
    return boxes


def match_anchors(anchors, reference_anchors):
    """Return the index of each reference anchor, (N, 4) each; every anchor occurs once."""
    distance, index = torch.cdist(reference_anchors, anchors, p=1).min(dim=1)
    assert distance.max() < 1e-3
    assert index.unique().numel() == len(anchors) == len(reference_anchors)
    return index


@with_(lambda model: not model.one_stage)
def test_every_anchor_has_its_own_objectness_and_deltas(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    level = 2 if model.features == "fpn" else 0
    sizes = [128.0] if level else [32.0, 64.0, 128.0, 256.0, 512.0]
    height, width = 2, 3
    feature = pooled(detector, 1, 3)[:, :, :height]
    cells = [ImageSize(height, width)] * (5 if level else 1)
    grid = detector.rpn.anchors.tile(cells, CANVAS)[level]
    boxes = anchors_by_cell(sizes, height, width, 16)
    index = match_anchors(grid, boxes.flatten(0, 2))
    with torch.inference_mode():
        logits, deltas = detector.rpn.head(feature)
    scores, expected_deltas = reference.proposal_head(weights(name), model, feature)
    anchors = len(scores[0])
    torch.testing.assert_close(logits[0, index], scores[0].permute(1, 2, 0).flatten(), **CLOSE)
    expected = expected_deltas[0].reshape(anchors, 4, height, width).permute(2, 3, 0, 1)
    torch.testing.assert_close(deltas[0, index], expected.reshape(-1, 4), **CLOSE)
    assert scores[0, :, 0, 0].unique().numel() == anchors


@with_(lambda model: model.one_stage)
def test_every_anchor_of_retinanet_has_its_own_classes_and_deltas(loaded, name):
    detector, classes = loaded(name)[0], ZOO[name].classes
    feature = torch.randn(1, PYRAMID, 2, 3, generator=torch.Generator().manual_seed(1))
    grid = detector.retinanet.anchors.tile([ImageSize(2, 3)] * 5, CANVAS)[1]
    sizes = [64.0, 64 * 2 ** (1 / 3), 64 * 2 ** (2 / 3)]
    boxes = anchors_by_cell(sizes, 2, 3, 16)
    index = match_anchors(grid, boxes.flatten(0, 2))
    with torch.inference_mode():
        logits, deltas = detector.retinanet(feature)
    scores, expected_deltas = reference.one_stage_head(weights(name), feature)
    for outputs, other, rows in ((logits, scores, classes), (deltas, expected_deltas, 4)):
        expected = other[0].reshape(9, rows, 2, 3).permute(2, 3, 0, 1).reshape(-1, rows)
        torch.testing.assert_close(outputs[0, index], expected, **CLOSE)


@with_(lambda model: model.rois)
def test_class_and_box_predictions_equal_the_reference(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    x = pooled(detector, 3, 14 if model.features == "c4" else 7)
    scores, boxes = reference.box_head(weights(name), model, x)
    with torch.inference_mode():
        logits, deltas = detector.roi_heads.box(x)
    torch.testing.assert_close(logits[:, 0], scores[:, -1], **CLOSE)
    torch.testing.assert_close(logits[:, 1:], scores[:, :-1], **CLOSE)
    deltas = deltas if model.agnostic else deltas[:, 1:]
    torch.testing.assert_close(deltas, boxes.view(3, -1, 4), **CLOSE)


@with_(lambda model: model.masks)
def test_masks_equal_the_reference(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    x = pooled(detector, 2, 14)
    expected = reference.mask_head(weights(name), model, x)
    heads = detector.roi_heads
    with torch.inference_mode():
        maps = heads.box.extract(x) if heads.shares_maps else x
        masks = heads.mask(maps, torch.tensor([1, model.classes]))
    last = 0 if model.agnostic else model.classes - 1
    torch.testing.assert_close(masks, torch.stack([expected[0, 0], expected[1, last]]), **CLOSE)


@with_(lambda model: model.keypoints)
def test_heatmaps_equal_the_reference(loaded, name):
    detector = loaded(name)[0]
    x = pooled(detector, 2, 14)
    with torch.inference_mode():
        heatmaps = detector.roi_heads.keypoint(x)
    torch.testing.assert_close(heatmaps, reference.keypoint_head(weights(name), x), **CLOSE)


def test_settings_that_weights_do_not_store_match_the_published_configs(loaded):
    def settings(name):
        rpn = loaded(name)[0].config.rpn
        return rpn.pre_nms_train, rpn.pre_nms_test, rpn.post_nms_train, rpn.post_nms_test

    assert settings("mask R50 FPN") == (2000, 1000, 1000, 1000)
    assert settings("keypoint R50 FPN") == (2000, 1000, 1500, 1000)
    assert settings("mask R50 DC5") == settings("VOC") == (12000, 6000, 2000, 1000)
    assert settings("RPN R50 FPN") == (2000, 1000, 1000, 2000)
    assert settings("RPN R50 C4") == (12000, 12000, 2000, 2000)
    conventions = loaded("keypoint R50 FPN")[0].config.conventions
    assert (conventions.box_smooth_l1_beta, conventions.keypoint_coordinates) == (0.5, "continuous")
    detector = loaded("keypoint R50 FPN")[0]
    assert [category.name for category in detector.categories] == ["person"]
    box = loaded("LVIS")[0].config.box
    assert (box.score_threshold, box.detections_per_image) == (1e-4, 300)


def test_assumptions_are_reported(loaded):
    assert any("res5 is dilated" in note for note in loaded("mask R50 DC5")[1].notes)
    assert any("LVIS" in note for note in loaded("LVIS")[1].notes)
    for name, convolution in (("mask R50 GN", "3x3"), ("mask R50 DC5", "1x1"), ("VOC", "1x1")):
        assert any(f"strides in the {convolution}" in note for note in loaded(name)[1].notes)


def test_trained_norms_stride_in_the_3x3_whatever_the_pixel_std(tmp_path):
    pixels = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.ones(3)}
    for name, in_1x1 in (("mask R50 GN", False), ("mask R50 SyncBN", False), ("VOC", True)):
        torch.save({"model": weights(name) | pixels}, tmp_path / "model.pth")
        conventions = read_detector(tmp_path / "model.pth")[0].config.conventions
        assert (conventions.stride_in_1x1, conventions.pixel_order) == (in_1x1, "bgr")


@pytest.mark.parametrize("name", ["mask R50 C4", "keypoint R50 FPN", "RetinaNet R50"])
def test_a_converted_model_loads_as_the_original(loaded, tmp_path, name):
    torch.save({"model": weights(name)}, tmp_path / "model.pth")
    assert main(["convert", str(tmp_path / "model.pth"), "--to", str(tmp_path / "ours")]) == 0
    converted, expected = load_network(tmp_path / "ours"), loaded(name)[0]
    assert converted.config == expected.config
    for key, tensor in converted.state_dict().items():
        assert tensor.equal(expected.state_dict()[key])


def test_explicit_settings_are_kept(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": weights("mask R50 DC5")}, path)
    given = ModelConfig.model_validate({"rpn": {"pre_nms_test": 99}})
    config = read_detector(path, given, {"backbone.features": "c5"})[0].config
    assert (config.backbone.features, config.rpn.pre_nms_test) == ("c5", 99)
    assert config.rpn.pre_nms_train == 12000


def one(name):
    return {name: torch.ones(3)}


def without(part):
    return lambda all_weights: {n: t for n, t in all_weights.items() if part not in n}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | one("roi_heads.box_head.0.fc1.weight"), "Cascade R-CNN"),
        (lambda w: w | one("sem_seg_head.p2.0.weight"), "panoptic"),
        (lambda w: w | one("roi_heads.mask_head.point_head.fc1.weight"), "PointRend"),
        (lambda w: w | one("head.cls_subnet.1.weight"), "RetinaNet with norms"),
        (lambda w: w | one("backbone.bottom_up.s1.b1.f.a.weight"), "RegNet"),
        (without("backbone.bottom_up"), "no ResNet"),
        (without("proposal_generator"), r"no region proposal network \(Fast R-CNN"),
        (without("fpn_output"), "no feature pyramid"),
        (
            lambda w: w | {"proposal_generator.rpn_head.anchor_deltas.weight": torch.ones(15, 32)},
            "15 deltas for 3 anchors: .* rotated",
        ),
        (
            lambda w: (
                w
                | {
                    "proposal_generator.rpn_head.objectness_logits.weight": torch.ones(4, 32),
                    "proposal_generator.rpn_head.anchor_deltas.weight": torch.ones(16, 32),
                }
            ),
            r"4 anchors per cell .* set model\.rpn\.anchor_ratios",
        ),
    ],
)
def test_unsupported_models_are_refused(tmp_path, change, message):
    path = tmp_path / "model.pth"
    torch.save({"model": change(weights("mask R50 FPN"))}, path)
    with pytest.raises(WeightsError, match=message):
        read_detector(path)
