"""The same weights and the same picture: torchvision's Keypoint R-CNN and ours say the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from model import Category
from model.preprocess import pad_batch
from model.structures import ImageBatch, ImageSize, Targets
from tests.model.torchvision.peers import build_ours, build_theirs, gradient_norm, two_pictures

POINTS, CHANNELS = 17, 64


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    return two_pictures()


def _theirs() -> KeypointRCNN:
    """Of one class, its keypoint head an eighth as wide."""
    torch.manual_seed(4)
    theirs = build_theirs(
        KeypointRCNN,
        classes=1,
        keypoint_head=KeypointRCNNHeads(256, (CHANNELS,) * 8),
        keypoint_predictor=KeypointRCNNPredictor(CHANNELS, POINTS),
    )
    # Of one class, proposals would differ in little else than the bias.
    with torch.no_grad():
        theirs.roi_heads.box_predictor.cls_score.bias.zero_()
    return theirs


def _persons(pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """Objects whose points lie in them, on their borders and outside, some not labelled.

    The last picture's only object has no labelled point.
    """
    generator = torch.Generator().manual_seed(3)
    persons = []
    for picture, count in zip(pictures, (3, 1), strict=True):
        height, width = picture.shape[:2]
        boxes = torch.tensor(
            [[0.05, 0.10, 0.45, 0.60], [0.30, 0.35, 0.90, 0.95], [0.60, 0.05, 0.80, 0.30]]
        )[:count] * torch.tensor([width, height, width, height])
        # Whole numbers: to add a half and to take it away changes no point on a border.
        boxes = boxes.round()
        inside = torch.rand(count, POINTS, 2, generator=generator) * 1.2 - 0.1
        inside[:, 0], inside[:, 1] = 1, 0
        near, far = boxes[:, None, :2], boxes[:, None, 2:]
        seen = torch.randint(0, 3, (count, POINTS, 1), generator=generator)
        if count == 1:
            seen.zero_()
        points = torch.cat((torch.lerp(near, far, inside), seen.float()), dim=2)
        labels = torch.ones(count, dtype=torch.int64)
        persons.append({"boxes": boxes, "labels": labels, "keypoints": points})
    return persons


def _batch(pictures: list[Tensor]) -> ImageBatch:
    sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
    return pad_batch(pictures, sizes, sampling_seeds=range(len(pictures)))


def test_the_same_weights_give_the_same_keypoints(pictures: list[Tensor], tmp_path: Path) -> None:
    theirs = _theirs().eval()
    detector = build_ours(theirs, tmp_path)
    keypoint = detector.config.keypoint
    assert (keypoint.layers, keypoint.channels, keypoint.names[16]) == (8, CHANNELS, "right_ankle")
    assert detector.categories == (Category(1, "person"),)
    with torch.inference_mode():
        expected = theirs([picture.permute(2, 0, 1) / 255 for picture in pictures])
        found = detector(_batch(pictures))
    assert sum(len(one) for one in found) >= 20
    for one, reference in zip(found, expected, strict=True):
        assert one.labels.tolist() == reference["labels"].tolist()
        torch.testing.assert_close(one.boxes, reference["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(one.scores, reference["scores"], atol=1e-4, rtol=0)
        # torchvision's are numbers of pixels, whose middle is half a pixel further.
        points = reference["keypoints"][..., :2] + 0.5
        torch.testing.assert_close(one.keypoints[..., :2], points, atol=0.01, rtol=0)
        scores = reference["keypoints_scores"]
        torch.testing.assert_close(one.keypoints[..., 2], scores, atol=1e-4, rtol=0)


def test_the_same_weights_and_samples_give_the_same_losses_and_gradients(
    pictures: list[Tensor], tmp_path: Path
) -> None:
    theirs = _theirs().train()
    detector = build_ours(theirs, tmp_path).train()
    theirs.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    persons = _persons(pictures)
    losses = theirs(
        [picture.permute(2, 0, 1) / 255 for picture in pictures], [dict(one) for one in persons]
    )
    sum(losses.values()).backward()
    terms = detector(
        _batch(pictures),
        [
            Targets(
                one["boxes"],
                one["labels"],
                keypoints=one["keypoints"] + torch.tensor([0.5, 0.5, 0.0]),
            )
            for one in persons
        ],
    )
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
        expected = gradient_norm(theirs, other)
        assert expected > 0
        torch.testing.assert_close(gradient_norm(detector, part), expected, rtol=1e-3, atol=0)
