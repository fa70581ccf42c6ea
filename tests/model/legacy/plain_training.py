"""maskrcnn-benchmark's losses step by step, in its own boxes and with loops; nothing is sampled."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_masks

from tests.model.legacy.forms import MASKRCNN_BENCHMARK as FORM
from tests.model.legacy.plain_inference import best_of_levels, overlap, pool, tile


def encode(box, reference):
    (width, height), (own_width, own_height) = FORM.sides(box), FORM.sides(reference)
    return [
        (box[0] + width / 2 - reference[0] - own_width / 2) / own_width,
        (box[1] + height / 2 - reference[1] - own_height / 2) / own_height,
        math.log(width / own_width),
        math.log(height / own_height),
    ]


def distance(predicted, wanted, beta):
    wanted = torch.tensor(wanted)
    return F.smooth_l1_loss(predicted, wanted, beta=beta, reduction="sum")


def match_anchors(anchors, objects, settings, size):
    """Of each anchor its object, or -1 for background, or None where it does not count."""
    overlaps = np.array([[overlap(FORM, box, anchor) for box in objects] for anchor in anchors])
    verdict = [None] * len(anchors)
    for index, (anchor, row) in enumerate(zip(anchors, overlaps, strict=True)):
        if row.max() >= settings.positive_iou or (row == overlaps.max(axis=0)).any():
            verdict[index] = int(row.argmax())
        elif row.max() < settings.negative_iou:
            verdict[index] = -1
        x1, y1, x2, y2 = anchor
        if not (x1 >= 0 and y1 >= 0 and x2 < size.width and y2 < size.height):
            verdict[index] = None
    return verdict


def rpn_losses(detector, maps, objects, sizes):
    """Objectness and boxes; ``objects`` are boxes of each image."""
    settings = detector.config.rpn
    judged = [detector.rpn.head(feature) for feature in maps]
    logits, deltas = (torch.cat(each, dim=1) for each in zip(*judged, strict=True))
    anchors = [box for level in tile(FORM, detector, maps) for box in level]
    objectness, box, count = 0.0, 0.0, 0
    for image, (boxes, size) in enumerate(zip(objects, sizes, strict=True)):
        for index, truth in enumerate(match_anchors(anchors, boxes, settings, size)):
            if truth is None:
                continue
            count += 1
            positive = torch.tensor(float(truth >= 0))
            objectness += F.binary_cross_entropy_with_logits(logits[image, index], positive)
            if truth >= 0:
                wanted = encode(boxes[truth], anchors[index])
                box += distance(deltas[image, index], wanted, 1 / 9)
    return objectness / count, box / count


def training_proposals(detector, maps, objects, sizes):
    """Of each image; the best of all images together, and the objects themselves."""
    settings, found = detector.config.rpn, []
    for image, size in enumerate(sizes):
        limits = (settings.pre_nms_train, settings.post_nms_train)
        best = best_of_levels(FORM, detector, maps, image, size, *limits)
        found += [(score, image, box) for score, box in best]
    found = sorted(found, key=lambda each: -each[0])[: settings.post_nms_train]
    return [
        [box for _, owner, box in found if owner == image] + boxes
        for image, boxes in enumerate(objects)
    ]


def drawn(polygon, box, side):
    """The outline (V, 2) cut out by a box, on a square of cells."""
    moved = (np.asarray(polygon, dtype=np.float64) - box[:2]) * (
        side / max(box[2] - box[0], 1.0),
        side / max(box[3] - box[1], 1.0),
    )
    runs = coco_masks.frPyObjects([moved.flatten().tolist()], side, side)
    return torch.from_numpy(coco_masks.decode(runs)[..., 0]).float()


def cell_of(point, box, side):
    """Place of a point (x, y) in the heatmap of a box, None outside of it."""
    column, row = (
        side - 1 if at == far else math.floor((at - near) * side / (far - near))
        for at, near, far in zip(point, box[:2], box[2:], strict=True)
    )
    inside = 0 <= column < side and 0 <= row < side
    return row * side + column if inside else None


def head_losses(detector, maps, proposals, objects, labels, outlines, points):
    """Classes, boxes, masks and keypoints."""
    heads, settings = detector.roi_heads, detector.config.box
    terms = {"class": [], "box": 0.0, "mask": [], "keypoint": []}
    weights = torch.tensor(settings.delta_weights)
    for image, rois in enumerate(proposals):
        logits, deltas = heads.box(pool(FORM, maps, rois, settings.pool_side, image))
        for index, roi in enumerate(rois):
            overlaps = [overlap(FORM, box, roi) for box in objects[image]]
            truth = int(np.argmax(overlaps))
            label = labels[image][truth] if overlaps[truth] >= settings.positive_iou else 0
            terms["class"].append(F.cross_entropy(logits[index], torch.tensor(label)))
            if not label:
                continue
            wanted = torch.tensor(encode(objects[image][truth], roi)) * weights
            terms["box"] += distance(deltas[index, label], wanted.tolist(), 1.0)
            pooled = pool(FORM, maps, [roi], detector.config.mask.pool_side, image)
            mask = heads.mask(pooled, torch.tensor([label]))[0]
            target = drawn(outlines[image][truth], roi, mask.shape[-1])
            terms["mask"].append(F.binary_cross_entropy_with_logits(mask, target))
            pooled = pool(FORM, maps, [roi], detector.config.keypoint.pool_side, image)
            for heatmap, point in zip(heads.keypoint(pooled)[0], points[image][truth], strict=True):
                cell = cell_of(point, roi, heatmap.shape[-1])
                if cell is not None:
                    logits_of_cells = heatmap.flatten()[None]
                    surprise = F.cross_entropy(logits_of_cells, torch.tensor([cell]))
                    terms["keypoint"].append(surprise)
    count = len(terms["class"])
    means = [torch.stack(terms[name]).mean() for name in ("class", "mask", "keypoint")]
    return means[0], terms["box"] / count, *means[1:]
