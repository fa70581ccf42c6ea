"""With the conventions of another library, detections are those of its arithmetic."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from model import Predictor, build_detector
from model.config import DETECTRON2, MASKRCNN_BENCHMARK, MMDETECTION
from tests.model.legacy import peers
from tests.model.legacy.reference_inference import detect

CLASSES = 6
SMALL = {"depth": 18, "norm": "group_norm", "frozen_stages": 0, "width": 16}


@pytest.fixture(scope="module")
def images(coco_tiny):
    """Two real images, one wide and one high, whose sides do not scale to whole pixels."""
    split = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    wide = next(entry for entry in split["images"] if entry["height"] == 427)
    high = next(entry for entry in split["images"] if entry["height"] > entry["width"])
    return [
        np.array(Image.open(coco_tiny / "val2017" / entry["file_name"]).convert("RGB"))
        for entry in (wide, high)
    ]


@pytest.fixture
def detector_with(tiny_config):
    """A detector with random weights, scaled so that scores, boxes and masks vary."""

    def build(conventions):
        torch.manual_seed(3)
        config = tiny_config(
            num_classes=CLASSES,
            conventions=conventions,
            input={"short_side": 160, "long_side": 250},
            rpn={
                "anchor_sizes": (16, 32, 64, 128, 256),
                "pre_nms_test": 120,
                "post_nms_test": 60,
            },
            box={"hidden": 64, "detections_per_image": 40},
            keypoint={"names": ("head", "tail"), "channels": 16, "layers": 2},
        )
        detector = build_detector(config).eval()
        head, box = detector.rpn.head, detector.roi_heads.box
        with torch.no_grad():
            for weight, scale in (
                (head.objectness.weight, 40.0),
                (head.deltas.weight, 4.0),
                (box.class_logits.weight, 60.0),
                (box.box_deltas.weight, 200.0),
                (detector.roi_heads.mask.logits.weight, 3.0),
            ):
                weight *= scale
            # Hidden units are positive: without their mean, all ROIs would get the same class.
            box.class_logits.weight -= box.class_logits.weight.mean(dim=1, keepdim=True)
            box.class_logits.bias.normal_(std=0.3)
            detector.roi_heads.mask.logits.bias.fill_(5.0)  # objects fill most of their boxes
        return detector

    return build


@pytest.fixture
def c4_with(tiny_config):
    """A detector whose only map is C4, with masks from res5."""

    def build(conventions):
        torch.manual_seed(4)
        config = tiny_config(
            num_classes=CLASSES,
            conventions=conventions,
            input={"short_side": 160, "long_side": 250},
            backbone=SMALL | {"features": "c4"},
            rpn={"anchor_sizes": (16, 32, 64, 128), "pre_nms_test": 150, "post_nms_test": 40},
            box={"pool_side": 14, "detections_per_image": 40},
        )
        detector = build_detector(config).eval()
        with torch.no_grad():
            detector.rpn.head.objectness.weight *= 20
            detector.rpn.head.deltas.weight *= 4
            detector.roi_heads.box.class_logits.weight *= 20
            detector.roi_heads.box.box_deltas.weight *= 100
            detector.roi_heads.mask.logits.bias.fill_(5.0)
        return detector

    return build


@pytest.fixture
def retinanet_with(tiny_config):
    def build(conventions):
        torch.manual_seed(4)
        config = tiny_config(
            num_classes=CLASSES,
            conventions=conventions,
            input={"short_side": 160, "long_side": 250},
            backbone=SMALL,
            box=None,
            mask=None,
            retinanet={"layers": 1, "pre_nms": 60, "prior": 0.1, "detections_per_image": 40},
        )
        detector = build_detector(config).eval()
        with torch.no_grad():
            detector.retinanet.class_logits.weight *= 20
            detector.retinanet.box_deltas.weight *= 10
        return detector

    return build


def largest_box_difference(detections, boxes_xywh):
    corner, opposite = detections.boxes[:, :2], detections.boxes[:, 2:]
    return (torch.cat((corner, opposite - corner), dim=1) - boxes_xywh).abs().max()


@pytest.mark.parametrize(
    ("conventions", "peer"),
    [
        (MASKRCNN_BENCHMARK, peers.MASKRCNN_BENCHMARK),
        (DETECTRON2, peers.DETECTRON2),
        (MMDETECTION, peers.DETECTRON2),  # its geometry, on pixels resized in another way
    ],
    ids=["maskrcnn_benchmark", "detectron2", "mmdetection"],
)
def test_detections_match_the_library(detector_with, images, conventions, peer):
    detector = detector_with(conventions)
    origin = conventions.keypoint_origin  # 0 in detectron2, 0.5 in maskrcnn-benchmark
    seen = []
    results = Predictor(detector).predict(images, batch_size=1)
    for image, result in zip(images, results, strict=True):
        scores, labels, boxes, bitmaps, points = detect(peer, detector, image)
        assert result.labels.tolist() == labels
        seen += labels
        # float32 against float64, with coordinates of several hundred pixels.
        torch.testing.assert_close(result.scores, scores, atol=1e-3, rtol=0)
        assert largest_box_difference(result, boxes) < 0.05
        # Except for one or two: the best two cells of a heatmap may differ by rounding only.
        different = (result.keypoints[..., :2] - origin - points).abs().amax(dim=2) > 0.05
        assert different.sum() <= 2
        masks, expected = result.bitmaps().bool().flatten(1), bitmaps.flatten(1)
        # A pixel may be within float rounding of the threshold.
        assert ((masks ^ expected).sum(1) <= (0.01 * expected.sum(1)).clamp(min=1)).all()
        assert (expected.sum(1) > 100).sum() >= 10
    assert len(seen) >= 20 and len(set(seen)) >= 3


@pytest.mark.parametrize("kind", ["c4_with", "retinanet_with"])
def test_detections_of_other_detectors_match_maskrcnn_benchmark(kind, images, request):
    detector = request.getfixturevalue(kind)(MASKRCNN_BENCHMARK)
    results = Predictor(detector).predict(images, batch_size=1)
    for image, result in zip(images, results, strict=True):
        scores, labels, boxes, bitmaps, _ = detect(peers.MASKRCNN_BENCHMARK, detector, image)
        assert len(labels) >= 10
        assert result.labels.tolist() == labels
        torch.testing.assert_close(result.scores, scores.float(), atol=1e-3, rtol=0)
        assert largest_box_difference(result, boxes) < 0.05
        if bitmaps is not None:
            different = (result.bitmaps().bool() ^ bitmaps).flatten(1).sum(1)
            assert (different <= (0.01 * bitmaps.flatten(1).sum(1)).clamp(min=1)).all()


def test_without_legacy_geometry_the_detections_differ(detector_with, images):
    """Check that the parity tests above can detect another box geometry."""
    detector = detector_with(MASKRCNN_BENCHMARK)
    _, labels, boxes, _, _ = detect(peers.MASKRCNN_BENCHMARK, detector, images[0])
    changed = MASKRCNN_BENCHMARK.model_copy(update={"legacy_geometry": False})
    (result,) = Predictor(detector_with(changed)).predict(images[:1])
    assert result.labels.tolist() != labels or largest_box_difference(result, boxes) > 0.5
