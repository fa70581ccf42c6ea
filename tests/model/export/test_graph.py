"""The function that is traced computes the same detections as the detector."""

import pytest
import torch

from model.export.graph import InferenceGraph
from model.preprocess import pad_batch
from model.structures import ImageSize
from tests.model.export.detector_kinds import KINDS

TORCHVISION = {
    "pixel_order": "bgr",
    "round_anchors": True,
    "anchor_stride": "grid",
    "roi_aligned": False,
    "roi_sampling_ratio": 0,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"conventions": TORCHVISION, "mask": None, "input": {"size_divisor": 1}}],
    ids=["mask_rcnn", "faster_rcnn_of_torchvision"],
)
def test_the_graph_equals_the_detector_bit_for_bit(make_detector, smooth_image, changes):
    detector = make_detector(**changes)
    divisor = detector.config.input.size_divisor
    with torch.inference_mode():
        for height, width in ((70, 130), (96, 64)):
            image = smooth_image(height, width)
            batch = pad_batch([image], [ImageSize(height, width)], size_divisor=divisor)
            (expected,) = detector(batch)
            results = InferenceGraph(detector).eval()(image)
            assert len(expected) >= 5
            for name, value in results.items():
                assert torch.equal(value, getattr(expected, name))
            assert ("masks" in results) == (expected.masks is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_every_kind_equals_its_detector(make_detector, smooth_image, kind):
    detector, image = make_detector(**KINDS[kind]), smooth_image(140, 170)
    batch = pad_batch([image], [ImageSize(140, 170)])
    with torch.inference_mode():
        (expected,) = detector(batch)
        graph = InferenceGraph(detector).eval()
        results = graph(image)
    assert len(expected) >= 5
    assert tuple(results) == graph.outputs
    for name in ("masks", "keypoints"):
        assert (name in results) == (getattr(expected, name) is not None)
    for name, value in results.items():
        # To make `Detections`, a pixel is subtracted from legacy boxes and added again: rounding.
        torch.testing.assert_close(value, getattr(expected, name), atol=2e-5, rtol=0)
