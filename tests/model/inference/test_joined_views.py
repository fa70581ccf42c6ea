"""How the views of a picture are joined, and which are refused."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from model.config import ModelConfig
from model.config.settings import ConfigError, check_settings
from model.preprocess import pad_batch, resize_image
from model.structures import ImageSize
from tests.model.inference.kinds import FEW, KINDS, MIRRORED, SIZES, assert_alike


def greedy(boxes, scores, labels, iou, limit):
    """Suppression as it is written in books."""
    kept = []
    for n in sorted(range(len(scores)), key=lambda n: -scores[n]):
        rivals = [m for m in kept if labels[m] == labels[n]]
        if all(box_iou(boxes[n][None], boxes[m][None]).item() <= iou for m in rivals):
            kept.append(n)
    return kept[:limit]


def views_one_by_one(detector, picture):
    """Every view in a batch of its own: its maps, size, and whether it is mirrored."""
    settings = detector.config.test_augmentation
    original = ImageSize(*picture.shape[:2])
    for side in settings.short_sides:
        scale = side / min(original)
        size = ImageSize(round(original.height * scale), round(original.width * scale))
        for is_mirrored in (False, True):
            pixels = torch.from_numpy(picture[:, ::-1].copy() if is_mirrored else picture)
            batch = pad_batch([resize_image(pixels, size)], [original])
            yield detector.features(batch), batch, size, is_mirrored


@torch.inference_mode()
def test_views_are_joined_as_plain_loops_join_them(build, noise):
    """Boxes and masks; what a view shows comes from the parts of the detector."""
    detector = build("fpn", {"short_sides": (64, 96), "flip": True}, box={"score_threshold": 0.4})
    height, width = noise.shape[:2]
    boxes, scores, labels = [], [], []
    for features, batch, size, is_mirrored in views_one_by_one(detector, noise):
        proposals, _ = detector.rpn(features, batch)
        rois = proposals.rois()[proposals.present().flatten()]
        logits, deltas = detector.roi_heads.box(detector.roi_heads.box_pooler(features, rois))
        for roi, row, delta in zip(rois, logits.softmax(1), deltas, strict=True):
            for label in range(1, 4):
                if row[label] <= 0.4:
                    continue
                x1, y1, x2, y2 = detector.roi_heads.box_coder.decode(delta[label], roi[1:]).tolist()
                if is_mirrored:
                    x1, x2 = size.width - x2, size.width - x1
                x1, x2 = (min(max(x * width / size.width, 0), width) for x in (x1, x2))
                y1, y2 = (min(max(y * height / size.height, 0), height) for y in (y1, y2))
                boxes.append(torch.tensor([x1, y1, x2, y2]))
                scores.append(row[label].item())
                labels.append(label)
    kept = greedy(boxes, scores, labels, iou=0.5, limit=100)
    (found,) = detector.predict([noise])
    assert len(found) == len(kept) >= 5
    # other batches and coordinates in other order: fp32; and scores about equal change places
    away, partner = (
        torch.cdist(torch.stack([boxes[n] for n in kept]), found.boxes)
        .where(torch.tensor([labels[n] for n in kept])[:, None] == found.labels, torch.inf)
        .min(dim=1)
    )
    assert away.max() < 5e-2
    assert len(set(partner.tolist())) == len(kept)
    wanted = torch.tensor([scores[n] for n in kept])
    torch.testing.assert_close(found.scores[partner], wanted, rtol=0, atol=1e-3)

    totals = torch.zeros_like(found.masks)
    for features, _, size, is_mirrored in views_one_by_one(detector, noise):
        for n, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
            x1, x2 = (x * size.width / width for x in (x1, x2))
            if is_mirrored:
                x1, x2 = size.width - x2, size.width - x1
            roi = torch.tensor([[0, x1, y1 * size.height / height, x2, y2 * size.height / height]])
            pooled = detector.roi_heads.mask_pooler(features, roi)
            mask = detector.roi_heads.mask(pooled, found.labels[n : n + 1]).sigmoid()[0]
            totals[n] += torch.fliplr(mask) if is_mirrored else mask
    torch.testing.assert_close(found.masks, totals / 4, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_proposals_of_all_views_compete(build, noise):
    detector = build("rpn", MIRRORED, rpn=FEW | {"post_nms_test": 15})
    boxes, scores = [], []
    for features, batch, size, is_mirrored in views_one_by_one(detector, noise):
        proposals, _ = detector.rpn(features, batch)
        for box, logit in zip(proposals.boxes[0], proposals.logits[0], strict=True):
            x1, y1, x2, y2 = box.tolist()
            x1, x2 = (size.width - x2, size.width - x1) if is_mirrored else (x1, x2)
            boxes.append(torch.tensor([x1, y1, x2, y2]))
            scores.append(logit.sigmoid().item())
    kept = greedy(boxes, scores, [1] * len(boxes), detector.config.rpn.nms_iou, limit=15)
    (found,) = detector.predict([noise])
    assert len(found) == 15
    assert found.labels.eq(1).all()
    torch.testing.assert_close(
        found.boxes, torch.stack([boxes[n] for n in kept]), rtol=0, atol=2e-2
    )


@pytest.mark.parametrize("kind", ["fpn", "keypoint", "c4", "retinanet"])
def test_a_picture_without_objects_shows_none_in_any_view(build, noise, kind):
    never = {"score_threshold": 1.0}
    part = KINDS[kind].get("retinanet") or KINDS[kind].get("box", {"hidden": 64})
    changes = {"retinanet" if kind == "retinanet" else "box": part | never}
    for found in build(kind, SIZES, **changes).predict([noise, np.zeros((1, 1, 3), np.uint8)]):
        assert found.boxes.shape == (0, 4)
        assert found.masks is None or found.masks.shape[0] == 0
        assert found.keypoints is None or found.keypoints.shape == (0, 3, 3)
        assert (found.masks is None) == (kind in ("keypoint", "retinanet"))
        assert (found.keypoints is None) == (kind != "keypoint")


@pytest.mark.parametrize("kind", ["fpn", "retinanet"])
def test_all_views_together_find_no_more_than_the_limit(build, noise, kind):
    part = KINDS[kind].get("retinanet") or {"hidden": 64}
    name = "retinanet" if kind == "retinanet" else "box"
    every, some = (
        build(kind, SIZES, **{name: part | {"detections_per_image": limit}}).predict([noise])[0]
        for limit in (100, 7)
    )
    assert len(some) == 7 < len(every)
    assert_alike(some, every[torch.arange(7)], box=0, rest=1e-6)


def test_pictures_come_in_their_order_and_the_mode_is_left(build, noise):
    detector = build("faster", MIRRORED).train()
    pictures = [noise, noise[:40], noise.transpose(1, 0, 2)]
    together = detector.predict(pictures, batch_size=1)
    assert detector.training
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = detector.predict([picture])
        assert_alike(found, alone, box=0, rest=0)
    assert detector.predict([]) == []


def test_sizes_that_the_long_side_makes_equal_are_looked_at_once(build, noise):
    wide = np.concatenate([noise] * 3, axis=1)  # 64 x 240
    once, twice = (
        build("fpn", {"short_sides": sides, "long_side": 120, "flip": False}).predict([wide])[0]
        for sides in [(40,), (40, 60, 80)]
    )
    assert_alike(twice, once, box=0, rest=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"short_sides": []}, "at least one size"),
        ({"short_sides": [64, 64]}, "none twice"),
        ({"short_sides": [64, 0]}, "greater than 0"),
        ({"short_sides": [64, 100], "long_side": 80}, "long_side 80 is below the short side 100"),
    ],
)
def test_views_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        check_settings(ModelConfig, {"test_augmentation": settings})


def test_a_keypoint_without_its_counterpart_is_refused_where_pictures_are_mirrored():
    tree = {"keypoint": {"names": ["left_ear", "nose"]}, "test_augmentation": {"flip": True}}
    with pytest.raises(ConfigError, match="left_ear has no counterpart right_ear"):
        check_settings(ModelConfig, tree)
    tree["test_augmentation"]["flip"] = False
    assert check_settings(ModelConfig, tree).test_augmentation.short_sides[0] == 400
