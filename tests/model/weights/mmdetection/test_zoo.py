"""Every kind of model in MMDetection's zoo: no tensor is left over, and ours computes the same."""

import functools

import pytest
import torch

from model.structures import ImageBatch, ImageSize
from model.weights import load_network
from model.weights.__main__ import main
from model.weights.load import read_detector
from tests.model.weights.mmdetection import reference_layers as reference
from tests.model.weights.mmdetection.zoo import ZOO, make_weights

CANVAS = ImageSize(32, 64)
# fp32 against float64, through up to 100 layers.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
RATIOS = (0.5, 1.0, 2.0)


@functools.cache
def weights(name):
    return make_weights(ZOO[name])


def exact(name):
    """Return the weights in float64."""
    return {key: t.double() for key, t in weights(name).items()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Function: name -> detector and report, loaded once."""

    @functools.cache
    def load(name):
        path = tmp_path_factory.mktemp("zoo") / "epoch_12.pth"
        torch.save({"state_dict": weights(name), "meta": {}}, path)
        detector, report = read_detector(path)
        return detector.eval(), report

    return load


def with_(part):
    return pytest.mark.parametrize("name", [name for name in ZOO if part(ZOO[name])])


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_cell(outputs, rows):
    """Return outputs (1, A * rows, H, W) of a level as (anchors, rows), row by row."""
    _, channels, height, width = outputs.shape
    split = outputs[0].reshape(channels // rows, rows, height, width)
    return split.permute(2, 3, 0, 1).reshape(-1, rows)


@pytest.mark.parametrize("name", ZOO)
def test_no_tensor_is_left_over(loaded, name):
    report = loaded(name)[1]
    assert report.ecosystem == "MMDetection"
    assert report.problems() == []
    counters = {n for n in weights(name) if n.endswith("num_batches_tracked")}
    assert report.ignored.keys() == counters
    assert len(report.loaded) == len(weights(name)) - len(counters)


@with_(lambda model: model.depth == 50 or model.groups > 1)
def test_the_maps_of_backbone_and_pyramid_equal_the_reference(loaded, name):
    image = torch.randint(0, 256, (1, 3, *CANVAS), generator=torch.Generator().manual_seed(1))
    batch = ImageBatch(image.byte(), (CANVAS,), (CANVAS,))
    with torch.inference_mode():
        maps = loaded(name)[0].features(batch)
    expected = reference.backbone(exact(name), ZOO[name], image.double())
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, **CLOSE)


@with_(lambda model: not model.one_stage)
def test_proposals_equal_the_reference_anchor_by_anchor(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    feature = random(1, model.channels, 2, 3)
    with torch.inference_mode():
        logits, deltas = detector.rpn.head(feature.float())
    scores, boxes = reference.proposal_head(exact(name), model, feature)
    torch.testing.assert_close(logits[0, :, None].double(), by_cell(scores, 1), **CLOSE)
    torch.testing.assert_close(deltas[0].double(), by_cell(boxes, 4), **CLOSE)
    levels = detector.rpn.anchors.cell_anchors
    scales, bases = ((8,), (4, 8, 16, 32, 64)) if len(levels) > 1 else ((2, 4, 8, 16, 32), (16,))
    for anchors, base in zip(levels, bases, strict=True):
        theirs = reference.cell_anchors(scales, RATIOS, base)
        torch.testing.assert_close(anchors.double(), theirs, rtol=1e-6, atol=1e-4)


@with_(lambda model: model.one_stage)
def test_retinanet_equals_the_reference_anchor_by_anchor(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    feature = random(1, model.channels, 2, 3)
    with torch.inference_mode():
        logits, deltas = detector.retinanet(feature.float())
    scores, boxes = reference.one_stage_head(exact(name), feature)
    torch.testing.assert_close(logits[0].double(), by_cell(scores, model.classes), **CLOSE)
    torch.testing.assert_close(deltas[0].double(), by_cell(boxes, 4), **CLOSE)
    scales = [4 * 2 ** (step / 3) for step in range(3)]
    for anchors, base in zip(
        detector.retinanet.anchors.cell_anchors, (8, 16, 32, 64, 128), strict=True
    ):
        theirs = reference.cell_anchors(scales, RATIOS, base)
        torch.testing.assert_close(anchors.double(), theirs, rtol=1e-6, atol=1e-4)


@with_(lambda model: model.rois and model.classes < 100)
def test_class_and_box_predictions_equal_the_reference(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    x = random(3, model.channels, *(2 * (14 if model.features == "c4" else 7,)))
    scores, boxes = reference.box_head(exact(name), model, x)
    with torch.inference_mode():
        logits, deltas = detector.roi_heads.box(x.float())
    torch.testing.assert_close(logits[:, 0].double(), scores[:, -1], **CLOSE)
    torch.testing.assert_close(logits[:, 1:].double(), scores[:, :-1], **CLOSE)
    deltas = deltas if model.agnostic else deltas[:, 1:]
    torch.testing.assert_close(deltas.double(), boxes.view(3, -1, 4), **CLOSE)


@with_(lambda model: model.masks and model.classes < 100)
def test_masks_equal_the_reference(loaded, name):
    model, detector = ZOO[name], loaded(name)[0]
    x = random(2, model.channels, 14, 14)
    expected = reference.mask_head(exact(name), model, x)
    heads = detector.roi_heads
    with torch.inference_mode():
        maps = heads.box.extract(x.float()) if heads.shares_maps else x.float()
        masks = heads.mask(maps, torch.tensor([1, model.classes]))
    expected = torch.stack([expected[0, 0], expected[1, -1]])
    torch.testing.assert_close(masks.double(), expected, **CLOSE)


@pytest.mark.parametrize("name", ZOO)
def test_pixels_and_strides_are_recognized_without_a_training_config(loaded, name):
    model, (detector, report) = ZOO[name], loaded(name)
    conventions = detector.config.conventions
    mean, std, is_rgb = model.pixels
    assert conventions.pixel_order == ("rgb" if is_rgb else "bgr")
    assert (conventions.pixel_mean, conventions.pixel_std) == (mean, std)
    assert conventions.stride_in_1x1 == (model.style == "caffe")
    # Statistics that MMDetection does not train.
    assert detector.config.backbone.norm == ("group_norm" if model.norm == "gn" else "frozen_bn")
    assert any("training config is not in the file" in note for note in report.notes)


def test_settings_that_weights_do_not_store_match_the_published_configs(loaded):
    def limits(name):
        rpn = loaded(name)[0].config.rpn
        return rpn.pre_nms_train, rpn.pre_nms_test, rpn.post_nms_train, rpn.post_nms_test

    assert limits("mask R50") == limits("mask R50 GN") == (2000, 1000, 1000, 1000)
    assert limits("mask C4") == limits("faster DC5") == (12000, 6000, 2000, 1000)
    assert limits("RPN R50") == (2000, 2000, 1000, 1000)
    assert loaded("faster DC5")[0].config.backbone.features == "dc5"
    box = loaded("LVIS")[0].config.box
    assert (box.score_threshold, box.detections_per_image) == (1e-4, 300)
    retinanet = loaded("RetinaNet R50")[0].config.retinanet
    assert (retinanet.p6_from, retinanet.smooth_l1_beta, retinanet.nms_iou) == ("c5", 0, 0.5)


@pytest.mark.parametrize("name", ["mask C4", "RetinaNet R50", "mask R50 DCNv2"])
def test_a_converted_model_loads_as_the_original(loaded, tmp_path, name):
    torch.save({"state_dict": weights(name)}, tmp_path / "model.pth")
    assert main(["convert", str(tmp_path / "model.pth"), "--to", str(tmp_path / "ours")]) == 0
    converted, expected = load_network(tmp_path / "ours"), loaded(name)[0]
    assert converted.config == expected.config
    for key, tensor in converted.state_dict().items():
        assert tensor.equal(expected.state_dict()[key])
