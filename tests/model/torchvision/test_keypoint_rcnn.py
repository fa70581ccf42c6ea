"""With the same weights, torchvision's Keypoint R-CNN and ours compute the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from model import Category
from model.structures import Targets
from tests.model.torchvision.peers import (
    build_reference,
    gradient_norm,
    load_peer,
    make_batch,
    resized_images,
    torchvision_input,
)

KEYPOINTS, CHANNELS = 17, 64
# torchvision's coordinates are pixel indices, whose centers are half a pixel further.
HALF_PIXEL = torch.tensor([0.5, 0.5, 0.0])


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return resized_images()


def _build_reference() -> KeypointRCNN:
    """Build a detector of one class with a keypoint head of an eighth of its width."""
    torch.manual_seed(4)
    reference = build_reference(
        KeypointRCNN,
        classes=1,
        keypoint_head=KeypointRCNNHeads(256, (CHANNELS,) * 8),
        keypoint_predictor=KeypointRCNNPredictor(CHANNELS, KEYPOINTS),
    )
    # With one class, the bias would decide almost every score.
    with torch.no_grad():
        reference.roi_heads.box_predictor.cls_score.bias.zero_()
    return reference


def _make_persons(images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return objects with keypoints inside, on the border and outside, some not labeled.

    The only object of the last image has no labeled keypoint.
    """
    generator = torch.Generator().manual_seed(3)
    persons = []
    for image, count in zip(images, (3, 1), strict=True):
        height, width = image.shape[:2]
        boxes = torch.tensor(
            [[0.05, 0.10, 0.45, 0.60], [0.30, 0.35, 0.90, 0.95], [0.60, 0.05, 0.80, 0.30]]
        )[:count] * torch.tensor([width, height, width, height])
        # Whole numbers: adding and subtracting 0.5 then keeps keypoints exactly on the border.
        boxes = boxes.round()
        position = torch.rand(count, KEYPOINTS, 2, generator=generator) * 1.2 - 0.1
        position[:, 0], position[:, 1] = 1, 0
        near, far = boxes[:, None, :2], boxes[:, None, 2:]
        visibility = torch.randint(0, 3, (count, KEYPOINTS, 1), generator=generator)
        if count == 1:
            visibility.zero_()
        keypoints = torch.cat((torch.lerp(near, far, position), visibility.float()), dim=2)
        labels = torch.ones(count, dtype=torch.int64)
        persons.append({"boxes": boxes, "labels": labels, "keypoints": keypoints})
    return persons


def test_keypoints_are_equal(images: list[Tensor], tmp_path: Path) -> None:
    reference = _build_reference().eval()
    detector = load_peer(reference, tmp_path)
    keypoint = detector.config.keypoint
    assert (keypoint.layers, keypoint.channels, keypoint.names[16]) == (8, CHANNELS, "right_ankle")
    assert detector.categories == (Category(1, "person"),)
    with torch.inference_mode():
        expected = reference(torchvision_input(images))
        results = detector(make_batch(images))
    assert sum(len(result) for result in results) >= 20
    for result, detections in zip(results, expected, strict=True):
        assert result.labels.tolist() == detections["labels"].tolist()
        torch.testing.assert_close(result.boxes, detections["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(result.scores, detections["scores"], atol=1e-4, rtol=0)
        xy = (detections["keypoints"] + HALF_PIXEL)[..., :2]
        torch.testing.assert_close(result.keypoints[..., :2], xy, atol=0.01, rtol=0)
        scores = detections["keypoints_scores"]
        torch.testing.assert_close(result.keypoints[..., 2], scores, atol=1e-4, rtol=0)


def test_losses_and_gradients_are_equal(images: list[Tensor], tmp_path: Path) -> None:
    reference = _build_reference().train()
    detector = load_peer(reference, tmp_path).train()
    reference.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    persons = _make_persons(images)
    losses = reference(torchvision_input(images), [dict(person) for person in persons])
    sum(losses.values()).backward()
    targets = [
        Targets(p["boxes"], p["labels"], keypoints=p["keypoints"] + HALF_PIXEL) for p in persons
    ]
    terms = detector(make_batch(images), targets)
    ours = {name: term.total / term.count for name, term in terms.items()}
    sum(ours.values()).backward()
    assert terms["keypoint"].count > 20
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "box_class": "loss_classifier",
        "box_regression": "loss_box_reg",
        "keypoint": "loss_keypoint",
    }
    assert ours.keys() == names.keys()
    for name, loss in ours.items():
        torch.testing.assert_close(loss, losses[names[name]], rtol=1e-4, atol=0)
        assert loss > 0
    for part, other in (
        ("backbone.", "backbone.body."),
        ("fpn.", "backbone.fpn."),
        ("rpn.", "rpn."),
        ("roi_heads.box.", "roi_heads.box_"),
        ("roi_heads.keypoint.", "roi_heads.keypoint_"),
    ):
        expected = gradient_norm(reference, other)
        assert expected > 0
        torch.testing.assert_close(gradient_norm(detector, part), expected, rtol=1e-3, atol=0)
