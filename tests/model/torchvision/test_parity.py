"""The same weights and the same picture: torchvision's detectors and ours say the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import (
    FasterRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn_v2,
)

from model.detections import Detections
from model.preprocess import pad_batch
from model.structures import BitmapMasks, ImageSize, Targets
from tests.model.torchvision.peers import (
    build_ours,
    build_theirs,
    gradient_norm,
    keep_statistics,
    two_originals,
    two_pictures,
)

CLASSES = 12
# The second versions have norms in pyramid and heads, two convolutions in the RPN, and four before
# one fully connected layer in the box head.
KINDS = {
    "mask_rcnn": MaskRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn_v2": maskrcnn_resnet50_fpn_v2,
    "faster_rcnn_v2": fasterrcnn_resnet50_fpn_v2,
    "mask_rcnn_resnext": MaskRCNN,
}
BODIES = {"mask_rcnn_resnext": "resnext50_32x4d"}


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    return two_pictures()


def _targets(pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """Three ellipses per picture as full bitmaps, as torchvision wants them."""
    targets = []
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        boxes = torch.tensor(
            [
                [0.05, 0.10, 0.45, 0.60],
                [0.30, 0.35, 0.90, 0.95],
                [0.60, 0.05, 0.80, 0.25 + 0.1 * index],
            ]
        ) * torch.tensor([width, height, width, height])
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        masks = (
            ((x - centre[:, 0, None, None]) / radius[:, 0, None, None]) ** 2
            + ((y - centre[:, 1, None, None]) / radius[:, 1, None, None]) ** 2
        ) <= 1
        targets.append(
            {"boxes": boxes, "labels": torch.tensor([1, 5, CLASSES]), "masks": masks.byte()}
        )
    return targets


def _assert_same(found: Detections, reference: dict[str, Tensor]) -> None:
    assert found.labels.tolist() == reference["labels"].tolist()
    torch.testing.assert_close(found.boxes, reference["boxes"], atol=0.02, rtol=0)
    torch.testing.assert_close(found.scores, reference["scores"], atol=1e-4, rtol=0)
    if "masks" in reference:
        wanted = (reference["masks"][:, 0] > 0.5).flatten(1)
        got = found.bitmaps().bool().flatten(1)
        shared, either = (wanted & got).sum(1), (wanted | got).sum(1)
        assert ((shared > 0.99 * either) | (either == 0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_weights_give_the_same_detections(
    pictures: list[Tensor], tmp_path: Path, kind: str
) -> None:
    theirs = build_theirs(KINDS[kind], CLASSES, BODIES.get(kind, "resnet50")).eval()
    detector = build_ours(theirs, tmp_path)
    with torch.inference_mode():
        expected = theirs([picture.permute(2, 0, 1) / 255 for picture in pictures])
        # torchvision pads the pictures to one canvas, so ours must too.
        sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
        found = detector(pad_batch(pictures, sizes))
    assert sum(len(one) for one in found) >= 20
    assert len(torch.cat([one.labels for one in found]).unique()) >= 3
    for one, reference in zip(found, expected, strict=True):
        _assert_same(one, reference)


@pytest.mark.parametrize("kind", ["mask_rcnn", "faster_rcnn_v2"])
def test_pictures_of_any_size_give_the_same_detections(tmp_path: Path, kind: str) -> None:
    theirs = build_theirs(KINDS[kind], CLASSES).eval()
    detector = build_ours(theirs, tmp_path)
    originals = two_originals()
    found = detector.predict([picture.numpy() for picture in originals], batch_size=1)
    for one, picture in zip(found, originals, strict=True):
        with torch.inference_mode():
            [reference] = theirs([picture.permute(2, 0, 1) / 255])
        assert len(one) >= 5
        _assert_same(one, reference)


@pytest.mark.parametrize("kind", ["mask_rcnn", "faster_rcnn", "mask_rcnn_v2"])
def test_the_same_weights_and_samples_give_the_same_losses_and_gradients(
    pictures: list[Tensor], tmp_path: Path, kind: str
) -> None:
    theirs = build_theirs(KINDS[kind], CLASSES).train()
    detector = build_ours(theirs, tmp_path).train()
    # Of the statistics of a batch every last bit would count.
    keep_statistics(theirs)
    keep_statistics(detector)
    theirs.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    objects = _targets(pictures)
    losses = theirs(
        [picture.permute(2, 0, 1) / 255 for picture in pictures], [dict(o) for o in objects]
    )
    sum(losses.values()).backward()
    sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
    terms = detector(
        pad_batch(pictures, sizes, sampling_seeds=range(len(pictures))),
        [Targets(o["boxes"], o["labels"], BitmapMasks(o["masks"])) for o in objects],
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
        expected = gradient_norm(theirs, other)
        torch.testing.assert_close(gradient_norm(detector, part), expected, rtol=1e-3, atol=0)
