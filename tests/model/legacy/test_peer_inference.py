"""The same weights under another library's conventions: its arithmetic and ours say the same."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from model import build_detector
from model.config import DETECTRON2, MASKRCNN_BENCHMARK
from tests.model.legacy import forms
from tests.model.legacy.plain_inference import find_objects

CLASSES = 6
SMALL = {"depth": 18, "norm": "group_norm", "frozen_stages": 0, "width": 16}


@pytest.fixture(scope="module")
def pictures(coco_tiny):
    """Two real pictures, one wide and one high, none of whose sides scales to whole pixels."""
    split = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    wide = next(one for one in split["images"] if one["height"] == 427)
    high = next(one for one in split["images"] if one["height"] > one["width"])
    return [
        np.array(Image.open(coco_tiny / "val2017" / one["file_name"]).convert("RGB"))
        for one in (wide, high)
    ]


@pytest.fixture
def detector_with(tiny_config):
    """A detector of random weights, spread so that scores, boxes and masks differ."""

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
            # Hidden units are positive: without their common part, ROIs differ in their class.
            box.class_logits.weight -= box.class_logits.weight.mean(dim=1, keepdim=True)
            box.class_logits.bias.normal_(std=0.3)
            detector.roi_heads.mask.logits.bias.fill_(5.0)  # most of a box belongs to its object
        return detector

    return build


@pytest.fixture
def c4_of(tiny_config):
    """A detector whose one map is C4, with masks from res5."""

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
def retinanet_of(tiny_config):
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


def largest_difference(found, boxes):
    extents = torch.cat((found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]), dim=1)
    return (extents - boxes).abs().max()


@pytest.mark.parametrize(
    ("conventions", "form"),
    [(MASKRCNN_BENCHMARK, forms.MASKRCNN_BENCHMARK), (DETECTRON2, forms.DETECTRON2)],
    ids=["maskrcnn_benchmark", "detectron2"],
)
def test_detections_are_those_of_the_library_that_the_conventions_are_of(
    detector_with, pictures, conventions, form
):
    detector = detector_with(conventions)
    origin = conventions.keypoint_origin  # detectron2 has the middles of pixels, as we do
    seen = []
    for picture, found in zip(pictures, detector.predict(pictures, batch_size=1), strict=True):
        scores, labels, boxes, bitmaps, points = find_objects(form, detector, picture)
        assert found.labels.tolist() == labels
        seen += labels
        # float32 against float64, through coordinates of some hundred pixels
        torch.testing.assert_close(found.scores, scores, atol=1e-3, rtol=0)
        assert largest_difference(found, boxes) < 0.05
        # All but a place or two: the best two of a heatmap may be equal but for rounding.
        strays = (found.keypoints[..., :2] - origin - points).abs().amax(dim=2) > 0.05
        assert strays.sum() <= 2
        ours, theirs = found.bitmaps().bool().flatten(1), bitmaps.flatten(1)
        # A pixel may lie within float rounding of the threshold.
        assert ((ours ^ theirs).sum(1) <= (0.01 * theirs.sum(1)).clamp(min=1)).all()
        assert (theirs.sum(1) > 100).sum() >= 10
    assert len(seen) >= 20 and len(set(seen)) >= 3


@pytest.mark.parametrize("kind", ["c4_of", "retinanet_of"])
def test_so_are_those_of_its_relatives(kind, pictures, request):
    detector = request.getfixturevalue(kind)(MASKRCNN_BENCHMARK)
    for picture, found in zip(pictures, detector.predict(pictures, batch_size=1), strict=True):
        scores, labels, boxes, bitmaps, _ = find_objects(
            forms.MASKRCNN_BENCHMARK, detector, picture
        )
        assert len(labels) >= 10
        assert found.labels.tolist() == labels
        torch.testing.assert_close(found.scores, scores.float(), atol=1e-3, rtol=0)
        assert largest_difference(found, boxes) < 0.05
        if bitmaps is not None:
            strays = (found.bitmaps().bool() ^ bitmaps).flatten(1).sum(1)
            assert (strays <= (0.01 * bitmaps.flatten(1).sum(1)).clamp(min=1)).all()


def test_without_the_geometry_the_detections_are_others(detector_with, pictures):
    """What the parity above can see: pixels, classes, masks."""
    detector = detector_with(MASKRCNN_BENCHMARK)
    _, labels, boxes, _, _ = find_objects(forms.MASKRCNN_BENCHMARK, detector, pictures[0])
    changed = MASKRCNN_BENCHMARK.model_copy(update={"legacy_geometry": False})
    (found,) = detector_with(changed).predict(pictures[:1])
    assert found.labels.tolist() != labels or largest_difference(found, boxes) > 0.5
