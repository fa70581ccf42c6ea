"""Without sampling, the losses of a batch are those of maskrcnn-benchmark's arithmetic."""

import pytest
import torch

from model import build_detector
from model.config import MASKRCNN_BENCHMARK
from model.preprocess import pad_batch
from model.structures import ImageSize, PolygonMasks, Targets
from tests.model.legacy.reference_training import head_losses, rpn_losses, training_proposals

ALL = 1_000_000
SIZES = (ImageSize(60, 88), ImageSize(64, 50))
# x1 y1 x2 y2, where x2 and y2 are the last pixels, as in maskrcnn-benchmark.
OBJECTS = ([[5.0, 8, 33, 40], [30.5, 20.25, 80, 52]], [[4.0, 30, 40, 60.5]])
LABELS = ([1, 3], [2])


@pytest.fixture
def detector(tiny_config):
    torch.manual_seed(5)
    config = tiny_config(
        conventions=MASKRCNN_BENCHMARK,
        rpn={
            "anchor_sizes": (8, 16, 32, 48, 64),
            "pre_nms_train": 60,
            "post_nms_train": 70,
            "samples_per_image": ALL,
        },
        box={"hidden": 64, "samples_per_image": ALL},
        keypoint={"names": ("head", "tail"), "channels": 16, "layers": 2},
    )
    detector = build_detector(config).train()
    with torch.no_grad():
        detector.rpn.head.objectness.weight.mul_(40)
        detector.rpn.head.deltas.weight.mul_(30)  # some leave the image
        detector.roi_heads.box.class_logits.weight.mul_(20)
        detector.roi_heads.box.box_deltas.weight.mul_(100)
    return detector


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8) for size in SIZES
    ]
    return pad_batch(images, SIZES, sampling_seeds=(0, 1))


def polygon(box):
    """Return an irregular quadrilateral that touches all sides of its box."""
    x1, y1, x2, y2 = box
    return [[x1, y1 + 7.3], [x1 + 9.6, y1], [x2, y1 + 4.1], [x2 - 6.2, y2]]


def points(box):
    """Return a point inside the box and one on its last pixel."""
    x1, y1, x2, y2 = box
    return [[0.3 * x1 + 0.7 * x2, 0.6 * y1 + 0.4 * y2], [x2, y2]]


def make_targets(boxes, labels):
    """Return targets in our coordinates, whose pixel 0 has its center at 0.5."""
    polygons = torch.tensor([polygon(box) for box in boxes])
    starts = torch.arange(len(boxes) + 1)
    return Targets(
        torch.tensor(boxes) + torch.tensor([0, 0, 1, 1]),
        torch.tensor(labels),
        PolygonMasks(polygons.flatten(0, 1), 4 * starts, starts),
        torch.tensor([[[x + 0.5, y + 0.5, 2.0] for x, y in points(box)] for box in boxes]),
    )


def test_losses_match_maskrcnn_benchmark(detector, batch):
    targets = [make_targets(*each) for each in zip(OBJECTS, LABELS, strict=True)]
    terms = detector(batch, targets)
    with torch.no_grad():
        maps = detector.features(batch)
        expected = dict(
            zip(
                ("rpn_objectness", "rpn_box"),
                rpn_losses(detector, maps, OBJECTS, SIZES),
                strict=True,
            )
        )
        proposals = training_proposals(detector, maps, OBJECTS, SIZES)
        polygons = [[polygon(box) for box in boxes] for boxes in OBJECTS]
        keypoints = [[points(box) for box in boxes] for boxes in OBJECTS]
        losses = head_losses(detector, maps, proposals, OBJECTS, LABELS, polygons, keypoints)
        expected |= zip(("box_class", "box_regression", "mask", "keypoint"), losses, strict=True)
    # The two images share 70 proposals, unequally, and have three objects.
    assert sum(map(len, proposals)) == 73 and len(proposals[0]) != 37
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        assert term.total > 0
        # Several hundred float32 terms are summed in another order.
        torch.testing.assert_close(
            term.total / term.count, expected[name].float(), rtol=1e-4, atol=0
        )
