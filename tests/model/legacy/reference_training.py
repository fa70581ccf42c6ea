"""Reference implementation of maskrcnn-benchmark's losses, on its own boxes and with loops.

Every anchor and proposal contributes: nothing is sampled.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_masks

from tests.model.legacy.peers import MASKRCNN_BENCHMARK as PEER
from tests.model.legacy.reference_inference import (
    best_boxes_per_level,
    iou,
    place_anchors,
    pool,
)


def encode(box, reference):
    (width, height), (own_width, own_height) = PEER.sides(box), PEER.sides(reference)
    return [
        (box[0] + width / 2 - reference[0] - own_width / 2) / own_width,
        (box[1] + height / 2 - reference[1] - own_height / 2) / own_height,
        math.log(width / own_width),
        math.log(height / own_height),
    ]


def box_loss(predicted, target, beta):
    target = torch.tensor(target)
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="sum")


def match_anchors(anchors, objects, settings, size):
    """Return the index of each anchor's object, -1 for background, None if ignored."""
    overlaps = np.array([[iou(PEER, box, anchor) for box in objects] for anchor in anchors])
    matches = [None] * len(anchors)
    for index, (anchor, row) in enumerate(zip(anchors, overlaps, strict=True)):
        if row.max() >= settings.positive_iou or (row == overlaps.max(axis=0)).any():
            matches[index] = int(row.argmax())
        elif row.max() < settings.negative_iou:
            matches[index] = -1
        x1, y1, x2, y2 = anchor
        if not (x1 >= 0 and y1 >= 0 and x2 < size.width and y2 < size.height):
            matches[index] = None
    return matches


def rpn_losses(detector, maps, objects, sizes):
    """Return the losses of objectness and boxes; ``objects`` are the boxes of each image."""
    settings = detector.config.rpn
    outputs = [detector.rpn.head(feature) for feature in maps]
    logits, deltas = (torch.cat(each, dim=1) for each in zip(*outputs, strict=True))
    anchors = [box for level in place_anchors(PEER, detector, maps) for box in level]
    objectness, box, count = 0.0, 0.0, 0
    for image, (boxes, size) in enumerate(zip(objects, sizes, strict=True)):
        for index, match in enumerate(match_anchors(anchors, boxes, settings, size)):
            if match is None:
                continue
            count += 1
            positive = torch.tensor(float(match >= 0))
            objectness += F.binary_cross_entropy_with_logits(logits[image, index], positive)
            if match >= 0:
                target = encode(boxes[match], anchors[index])
                box += box_loss(deltas[image, index], target, 1 / 9)
    return objectness / count, box / count


def training_proposals(detector, maps, objects, sizes):
    """Return the proposals of each image: the best of all images together, and the objects."""
    settings, proposals = detector.config.rpn, []
    for image, size in enumerate(sizes):
        limits = (settings.pre_nms_train, settings.post_nms_train)
        best = best_boxes_per_level(PEER, detector, maps, image, size, *limits)
        proposals += [(score, image, box) for score, box in best]
    proposals = sorted(proposals, key=lambda each: -each[0])[: settings.post_nms_train]
    return [
        [box for _, owner, box in proposals if owner == image] + boxes
        for image, boxes in enumerate(objects)
    ]


def draw_mask(polygon, box, side):
    """Draw a polygon, (V, 2) for V vertices, on the (side, side) grid of a box."""
    moved = (np.asarray(polygon, dtype=np.float64) - box[:2]) * (
        side / max(box[2] - box[0], 1.0),
        side / max(box[3] - box[1], 1.0),
    )
    runs = coco_masks.frPyObjects([moved.flatten().tolist()], side, side)
    return torch.from_numpy(coco_masks.decode(runs)[..., 0]).float()


def find_cell(point, box, side):
    """Return the index of the heatmap cell of a point (x, y) in a box, None outside of it."""
    column, row = (
        side - 1 if at == far else math.floor((at - near) * side / (far - near))
        for at, near, far in zip(point, box[:2], box[2:], strict=True)
    )
    inside = 0 <= column < side and 0 <= row < side
    return row * side + column if inside else None


def head_losses(detector, maps, proposals, objects, labels, polygons, points):
    """Return the losses of classes, boxes, masks and keypoints."""
    heads, settings = detector.roi_heads, detector.config.box
    terms = {"class": [], "box": 0.0, "mask": [], "keypoint": []}
    weights = torch.tensor(settings.delta_weights)
    for image, rois in enumerate(proposals):
        logits, deltas = heads.box(pool(PEER, maps, rois, settings.pool_side, image))
        for index, roi in enumerate(rois):
            overlaps = [iou(PEER, box, roi) for box in objects[image]]
            match = int(np.argmax(overlaps))
            label = labels[image][match] if overlaps[match] >= settings.positive_iou else 0
            terms["class"].append(F.cross_entropy(logits[index], torch.tensor(label)))
            if not label:
                continue
            target = torch.tensor(encode(objects[image][match], roi)) * weights
            terms["box"] += box_loss(deltas[index, label], target.tolist(), 1.0)
            pooled = pool(PEER, maps, [roi], detector.config.mask.pool_side, image)
            mask = heads.mask(pooled, torch.tensor([label]))[0]
            target = draw_mask(polygons[image][match], roi, mask.shape[-1])
            terms["mask"].append(F.binary_cross_entropy_with_logits(mask, target))
            pooled = pool(PEER, maps, [roi], detector.config.keypoint.pool_side, image)
            for heatmap, point in zip(heads.keypoint(pooled)[0], points[image][match], strict=True):
                cell = find_cell(point, roi, heatmap.shape[-1])
                if cell is not None:
                    logits_of_cells = heatmap.flatten()[None]
                    loss = F.cross_entropy(logits_of_cells, torch.tensor([cell]))
                    terms["keypoint"].append(loss)
    count = len(terms["class"])
    means = [torch.stack(terms[name]).mean() for name in ("class", "mask", "keypoint")]
    return means[0], terms["box"] / count, *means[1:]
