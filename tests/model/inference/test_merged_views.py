"""Views are merged as a reference implementation with plain loops merges them."""

import pytest
import torch
from torchvision.ops import box_iou

from model.preprocess import pad_batch, resize_image
from model.structures import ImageSize
from tests.model.inference.detector_kinds import ONE_SIZE_FLIPPED, RPN


def greedy_nms(boxes, scores, labels, iou, limit):
    """Return the indices that textbook NMS within each class keeps."""
    kept = []
    for n in sorted(range(len(scores)), key=lambda n: -scores[n]):
        rivals = [m for m in kept if labels[m] == labels[n]]
        if all(box_iou(boxes[n][None], boxes[m][None]).item() <= iou for m in rivals):
            kept.append(n)
    return kept[:limit]


def views_one_by_one(detector, image):
    """Yield features, batch, size and whether it is flipped, for each view in its own batch."""
    settings = detector.config.test_augmentation
    original = ImageSize(*image.shape[:2])
    for side in settings.short_sides:
        scale = side / min(original)
        size = ImageSize(round(original.height * scale), round(original.width * scale))
        for is_flipped in (False, True):
            pixels = torch.from_numpy(image[:, ::-1].copy() if is_flipped else image)
            batch = pad_batch([resize_image(pixels, size)], [original])
            yield detector.features(batch), batch, size, is_flipped


@pytest.fixture
def mask_predictor(make_predictor):
    augmentation = {"short_sides": (64, 96), "flip": True}
    return make_predictor("fpn", augmentation, box={"score_threshold": 0.4})


@torch.inference_mode()
def test_boxes_of_all_views_go_through_nms_together(mask_predictor, noise):
    detector = mask_predictor.detector
    height, width = noise.shape[:2]
    boxes, scores, labels = [], [], []
    for features, batch, size, is_flipped in views_one_by_one(detector, noise):
        proposals = detector.rpn(features, batch)
        rois = proposals.rois()[proposals.valid().flatten()]
        logits, deltas = detector.roi_heads.box(detector.roi_heads.box_pooler(features, rois))
        for roi, row, delta in zip(rois, logits.softmax(1), deltas, strict=True):
            for label in range(1, 4):
                if row[label] <= 0.4:
                    continue
                x1, y1, x2, y2 = detector.roi_heads.box_coder.decode(delta[label], roi[1:]).tolist()
                if is_flipped:
                    x1, x2 = size.width - x2, size.width - x1
                x1, x2 = (min(max(x * width / size.width, 0), width) for x in (x1, x2))
                y1, y2 = (min(max(y * height / size.height, 0), height) for y in (y1, y2))
                boxes.append(torch.tensor([x1, y1, x2, y2]))
                scores.append(row[label].item())
                labels.append(label)
    kept = greedy_nms(boxes, scores, labels, iou=0.5, limit=100)
    (result,) = mask_predictor.predict([noise])
    assert len(result) == len(kept) >= 5
    # Batches and the order of operations differ: fp32; and almost equal scores change their order.
    distance, nearest = (
        torch.cdist(torch.stack([boxes[n] for n in kept]), result.boxes)
        .where(torch.tensor([labels[n] for n in kept])[:, None] == result.labels, torch.inf)
        .min(dim=1)
    )
    assert distance.max() < 5e-2
    assert len(set(nearest.tolist())) == len(kept)
    expected = torch.tensor([scores[n] for n in kept])
    torch.testing.assert_close(result.scores[nearest], expected, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_masks_are_the_average_of_all_views(mask_predictor, noise):
    detector = mask_predictor.detector
    height, width = noise.shape[:2]
    (result,) = mask_predictor.predict([noise])
    assert len(result) >= 5
    totals = torch.zeros_like(result.masks)
    for features, _, size, is_flipped in views_one_by_one(detector, noise):
        for n, (x1, y1, x2, y2) in enumerate(result.boxes.tolist()):
            x1, x2 = (x * size.width / width for x in (x1, x2))
            if is_flipped:
                x1, x2 = size.width - x2, size.width - x1
            roi = torch.tensor([[0, x1, y1 * size.height / height, x2, y2 * size.height / height]])
            pooled = detector.roi_heads.mask_pooler(features, roi)
            mask = detector.roi_heads.mask(pooled, result.labels[n : n + 1]).sigmoid()[0]
            totals[n] += torch.fliplr(mask) if is_flipped else mask
    torch.testing.assert_close(result.masks, totals / 4, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_proposals_of_all_views_go_through_nms_together(make_predictor, noise):
    predictor = make_predictor("rpn", ONE_SIZE_FLIPPED, rpn=RPN | {"post_nms_test": 15})
    detector = predictor.detector
    boxes, scores = [], []
    for features, batch, size, is_flipped in views_one_by_one(detector, noise):
        proposals = detector.rpn(features, batch)
        for box, logit in zip(proposals.boxes[0], proposals.logits[0], strict=True):
            x1, y1, x2, y2 = box.tolist()
            x1, x2 = (size.width - x2, size.width - x1) if is_flipped else (x1, x2)
            boxes.append(torch.tensor([x1, y1, x2, y2]))
            scores.append(logit.sigmoid().item())
    kept = greedy_nms(boxes, scores, [1] * len(boxes), detector.config.rpn.nms_iou, limit=15)
    (result,) = predictor.predict([noise])
    assert len(result) == 15
    assert result.labels.eq(1).all()
    torch.testing.assert_close(
        result.boxes, torch.stack([boxes[n] for n in kept]), rtol=0, atol=2e-2
    )
