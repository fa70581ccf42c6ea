"""With the same weights, torchvision's Mask and Faster R-CNN and ours compute the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection import (
    FasterRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn_v2,
)

from model import ModelConfig, Predictor, build_detector
from model.detections import Detections
from model.structures import BitmapMasks, Targets
from tests.model.torchvision.peers import (
    build_reference,
    fix_norm_statistics,
    gradient_norm,
    load_peer,
    make_batch,
    original_images,
    resized_images,
    torchvision_input,
)

CLASSES = 12
# The v2 detectors have norms in pyramid and heads, two convolutions in the RPN, and four before one
# fully connected layer in the box head.
KINDS = {
    "mask_rcnn": MaskRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn_v2": maskrcnn_resnet50_fpn_v2,
    "faster_rcnn_v2": fasterrcnn_resnet50_fpn_v2,
    "mask_rcnn_resnext": MaskRCNN,
}
BODIES = {"mask_rcnn_resnext": "resnext50_32x4d"}


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return resized_images()


def _make_targets(images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return three ellipses per image as bitmaps of the whole image, in torchvision's format."""
    targets = []
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        boxes = torch.tensor(
            [
                [0.05, 0.10, 0.45, 0.60],
                [0.30, 0.35, 0.90, 0.95],
                [0.60, 0.05, 0.80, 0.25 + 0.1 * index],
            ]
        ) * torch.tensor([width, height, width, height])
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        center, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        masks = (
            ((x - center[:, 0, None, None]) / radius[:, 0, None, None]) ** 2
            + ((y - center[:, 1, None, None]) / radius[:, 1, None, None]) ** 2
        ) <= 1
        targets.append(
            {"boxes": boxes, "labels": torch.tensor([1, 5, CLASSES]), "masks": masks.byte()}
        )
    return targets


def _assert_equal(result: Detections, expected: dict[str, Tensor]) -> None:
    assert result.labels.tolist() == expected["labels"].tolist()
    torch.testing.assert_close(result.boxes, expected["boxes"], atol=0.02, rtol=0)
    torch.testing.assert_close(result.scores, expected["scores"], atol=1e-4, rtol=0)
    if "masks" in expected:
        reference = (expected["masks"][:, 0] > 0.5).flatten(1)
        ours = result.bitmaps().bool().flatten(1)
        intersection, union = (reference & ours).sum(1), (reference | ours).sum(1)
        assert ((intersection > 0.99 * union) | (union == 0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_equal(images: list[Tensor], tmp_path: Path, kind: str) -> None:
    reference = build_reference(KINDS[kind], CLASSES, BODIES.get(kind, "resnet50")).eval()
    detector = load_peer(reference, tmp_path)
    with torch.inference_mode():
        expected = reference(torchvision_input(images))
        results = detector(make_batch(images))
    assert sum(len(result) for result in results) >= 20
    assert len(torch.cat([result.labels for result in results]).unique()) >= 3
    for result, detections in zip(results, expected, strict=True):
        _assert_equal(result, detections)


@pytest.mark.parametrize("kind", ["mask_rcnn", "faster_rcnn_v2"])
def test_detections_in_images_of_any_size_are_equal(tmp_path: Path, kind: str) -> None:
    reference = build_reference(KINDS[kind], CLASSES).eval()
    predictor = Predictor(load_peer(reference, tmp_path))
    originals = original_images()
    results = predictor.predict([image.numpy() for image in originals], batch_size=1)
    for result, image in zip(results, originals, strict=True):
        with torch.inference_mode():
            [expected] = reference(torchvision_input([image]))
        assert len(result) >= 5
        _assert_equal(result, expected)


@pytest.mark.parametrize("kind", ["mask_rcnn", "faster_rcnn", "mask_rcnn_v2"])
def test_losses_and_gradients_are_equal(images: list[Tensor], tmp_path: Path, kind: str) -> None:
    reference = build_reference(KINDS[kind], CLASSES).train()
    detector = load_peer(reference, tmp_path).train()
    # Batch statistics would amplify differences in the last bit.
    fix_norm_statistics(reference)
    fix_norm_statistics(detector)
    reference.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    targets = _make_targets(images)
    losses = reference(torchvision_input(images), [dict(target) for target in targets])
    sum(losses.values()).backward()
    terms = detector(
        make_batch(images),
        [Targets(t["boxes"], t["labels"], BitmapMasks(t["masks"])) for t in targets],
    )
    ours = {name: term.total / term.count for name, term in terms.items()}
    sum(ours.values()).backward()
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "box_class": "loss_classifier",
        "box_regression": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert ours.keys() == {name for name, other in names.items() if other in losses}
    for name, loss in ours.items():
        torch.testing.assert_close(loss, losses[names[name]], rtol=1e-4, atol=0)
        assert loss > 0
    for part, other in (
        ("backbone.", "backbone.body."),
        ("fpn.", "backbone.fpn."),
        ("rpn.", "rpn."),
        ("roi_heads.box.", "roi_heads.box_"),
        ("roi_heads.mask.", "roi_heads.mask_"),
    ):
        expected = gradient_norm(reference, other)
        torch.testing.assert_close(gradient_norm(detector, part), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As torchvision publishes them with the weights (_weights.meta["num_params"]).
    [("maskrcnn_resnet50_fpn_v2", 46_359_409), ("fasterrcnn_resnet50_fpn_v2", 43_712_278)],
)
def test_v2_detectors_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    config = {
        "num_classes": 90,
        "backbone": {"norm": "batch_norm", "frozen_stages": 0},
        "fpn": {"norm": "batch_norm"},
        "rpn": {"layers": 2},
        "box": {"conv_layers": 4, "fc_layers": 1, "norm": "batch_norm"},
        "mask": {"norm": "batch_norm"} if name.startswith("mask") else None,
    }
    with torch.device("meta"):
        detector = build_detector(ModelConfig.model_validate(config))
        reference = getattr(detection, name)(weights=None, weights_backbone=None)
    assert sum(p.numel() for p in detector.parameters()) == parameters
    assert sum(p.numel() for p in reference.parameters()) == parameters
