"""Reference implementation of inference: slow and simple, in float64, with loops.

Only the layers are the detector's. What happens to boxes and masks between them is computed here,
with the arithmetic of a library, a ``Peer``, and on that library's boxes.

Shapes: D detections, P keypoints, H W of the original image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision

from model.preprocess import normalize_images
from model.structures import ImageBatch, ImageSize


@dataclass(frozen=True)
class Peer:
    """The arithmetic of a library.

    Args:
        resized: (height, width, short side, long side) to the size of the network's image.
        anchors: (sizes, ratios, stride) to the boxes of cell (0, 0), by ratio, then by size.
        sides: width and height of a box.
        from_center: (center x, center y, width, height) to a box.
        last: largest coordinate on a side of so many pixels.
        align: keyword arguments for torchvision's roi_align.
        paste: (mask, box, height, width) to a bitmap.
    """

    resized: Callable
    anchors: Callable
    sides: Callable
    from_center: Callable
    last: Callable
    align: dict
    paste: Callable


def decode(peer, box, deltas):
    width, height = peer.sides(box)
    dx, dy, dw, dh = (float(delta) for delta in deltas)
    dw, dh = (min(delta, math.log(1000 / 16)) for delta in (dw, dh))
    return peer.from_center(
        box[0] + 0.5 * width + dx * width,
        box[1] + 0.5 * height + dy * height,
        width * math.exp(dw),
        height * math.exp(dh),
    )


def clip(peer, box, size):
    limits = (peer.last(size.width), peer.last(size.height)) * 2
    return [min(max(side, 0.0), limit) for side, limit in zip(box, limits, strict=True)]


def iou(peer, one, other):
    shared = [max(one[0], other[0]), max(one[1], other[1])]
    shared += [min(one[2], other[2]), min(one[3], other[3])]
    width, height = (max(0.0, side) for side in peer.sides(shared))
    areas = [math.prod(peer.sides(box)) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def nms(peer, boxes, scores, threshold):
    """Return the indices of the boxes that non-maximum suppression keeps, best first."""
    kept = []
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        if all(iou(peer, boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(int(index))
    return kept


def list_levels(detector):
    """Return stride and anchor sizes of each feature map."""
    config = detector.config
    if config.retinanet is not None:
        steps = [2 ** (step / config.retinanet.anchor_scales) for step in range(3)]
        sizes = [[size * step for step in steps] for size in config.retinanet.anchor_sizes]
        return [(8 * 2**level, level_sizes) for level, level_sizes in enumerate(sizes)]
    if config.backbone.features == "c4":
        return [(16, config.rpn.anchor_sizes)]
    return [(4 * 2**level, [size]) for level, size in enumerate(config.rpn.anchor_sizes)]


def place_anchors(peer, detector, maps):
    """Return the anchors of each level, row by row."""
    levels = []
    settings = detector.config.retinanet or detector.config.rpn
    for (stride, sizes), feature in zip(list_levels(detector), maps, strict=True):
        base = peer.anchors(sizes, settings.anchor_ratios, stride)
        levels.append(
            [
                [x1 + stride * column, y1 + stride * row, x2 + stride * column, y2 + stride * row]
                for row in range(feature.shape[2])
                for column in range(feature.shape[3])
                for x1, y1, x2, y2 in base
            ]
        )
    return levels


def best_boxes_per_level(peer, detector, maps, image, size, pre_nms, post_nms):
    """Return score and box of an image's proposals after the NMS of each level, best first."""
    settings, proposals = detector.config.rpn, []
    levels = zip(place_anchors(peer, detector, maps), maps, strict=True)
    for anchors, feature in levels:
        logits, deltas = (each[image].detach().numpy() for each in detector.rpn.head(feature))
        best = np.argsort(-logits, kind="stable")[:pre_nms]
        boxes = [clip(peer, decode(peer, anchors[i], deltas[i]), size) for i in best]
        valid = [i for i, box in enumerate(boxes) if min(peer.sides(box)) > 0]
        boxes, scores = [boxes[i] for i in valid], [logits[best[i]] for i in valid]
        kept = nms(peer, boxes, scores, settings.nms_iou)[:post_nms]
        proposals += [(scores[i], boxes[i]) for i in kept]
    return sorted(proposals, key=lambda pair: -pair[0])


def propose(peer, detector, maps, size):
    """Return the best proposals of the only image."""
    pre_nms, post_nms = detector.config.rpn.pre_nms_test, detector.config.rpn.post_nms_test
    best = best_boxes_per_level(peer, detector, maps, 0, size, pre_nms, post_nms)
    return [box for _, box in best[:post_nms]]


def pool(peer, maps, boxes, side, image=0):
    """Return the features of each box of an image, from the level for the box's size."""
    pooled = []
    for box in boxes:
        level = math.floor(4 + math.log2(math.sqrt(math.prod(peer.sides(box))) / 224 + 1e-8))
        level = 4 if len(maps) == 1 else min(max(level, 2), 5)
        roi = torch.tensor([[float(image), *box]])
        pooled.append(
            torchvision.ops.roi_align(
                maps[0 if len(maps) == 1 else level - 2], roi, side, 1 / 2**level, **peer.align
            )
        )
    return torch.cat(pooled)


def classify(peer, detector, maps, proposals, size):
    """Return score, label and box of every detection of a two-stage detector, best first."""
    settings, detections = detector.config.box, []
    logits, deltas = detector.roi_heads.box(pool(peer, maps, proposals, settings.pool_side))
    scores = logits.softmax(dim=1).numpy()
    deltas = deltas.numpy().astype(np.float64) / np.array(settings.delta_weights)
    for label in range(1, scores.shape[1]):
        selected = np.flatnonzero(scores[:, label] > settings.score_threshold)
        boxes = [clip(peer, decode(peer, proposals[i], deltas[i, label]), size) for i in selected]
        kept = nms(peer, boxes, scores[selected, label], settings.nms_iou)
        detections += [(float(scores[selected[i], label]), label, boxes[i]) for i in kept]
    return sorted(detections, key=lambda each: -each[0])[: settings.detections_per_image]


def classify_anchors(peer, detector, maps, size):
    """Return score, label and box of every detection of a RetinaNet, best first."""
    settings, candidates = detector.config.retinanet, []
    levels = zip(place_anchors(peer, detector, maps), maps, strict=True)
    for anchors, feature in levels:
        logits, deltas = (each[0].numpy() for each in detector.retinanet(feature))
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        pairs = np.argsort(-scores, axis=None, kind="stable")[: settings.pre_nms]
        for anchor, label in zip(*np.unravel_index(pairs, scores.shape), strict=True):
            if scores[anchor, label] > settings.score_threshold:
                box = clip(peer, decode(peer, anchors[anchor], deltas[anchor]), size)
                candidates.append((scores[anchor, label], int(label) + 1, box))
    detections = []
    for label in {label for _, label, _ in candidates}:
        of_label = [each for each in candidates if each[1] == label]
        scores, _, boxes = zip(*of_label, strict=True)
        detections += [of_label[i] for i in nms(peer, boxes, scores, settings.nms_iou)]
    return sorted(detections, key=lambda each: -each[0])[: settings.detections_per_image]


def predict_masks(peer, detector, maps, boxes, labels):
    """Return the mask probabilities inside each box."""
    heads, config = detector.roi_heads, detector.config
    if config.backbone.features == "c4":
        features = heads.box.extract(pool(peer, maps, boxes, config.box.pool_side))
    else:
        features = pool(peer, maps, boxes, config.mask.pool_side)
    return heads.mask(features, torch.tensor(labels)).sigmoid()


def extract_features(peer, detector, image):
    """Return the feature maps of an image, and the size to which it was resized."""
    original, settings = ImageSize(*image.shape[:2]), detector.config.input
    size = ImageSize(*peer.resized(*original, settings.short_side, settings.long_side))
    canvas = ImageSize(*(-(-side // 32) * 32 for side in size))
    conventions = detector.config.conventions
    pixels = normalize_images([torch.from_numpy(image)], [size], canvas, conventions)
    return detector.features(ImageBatch(pixels, (size,), (original,))), size


def locate_keypoints(peer, detector, maps, boxes):
    """Return x and y of each box's keypoints: the maximum of a heatmap resized to whole pixels."""
    points, side = [], detector.config.keypoint.pool_side
    for box in boxes:
        width, height = max(box[2] - box[0], 1), max(box[3] - box[1], 1)
        pixels = math.ceil(height), math.ceil(width)
        heatmaps = detector.roi_heads.keypoint(pool(peer, maps, [box], side))
        heatmaps = torch.nn.functional.interpolate(heatmaps, pixels, mode="bicubic")[0]
        for heatmap in heatmaps:
            row, column = divmod(int(heatmap.argmax()), pixels[1])
            x = box[0] + (column + 0.5) * width / pixels[1]
            points.append([x, box[1] + (row + 0.5) * height / pixels[0]])
    return torch.tensor(points).view(len(boxes), -1, 2)


@torch.inference_mode()
def detect(peer, detector, image):
    """Detect the objects in an image, (H, W, 3) uint8.

    Returns:
        Scores, labels, boxes as x y w h, bitmaps (D, H, W) or None, and keypoints (D, P, 2) or
        None, in pixels of the original image.
    """
    maps, size = extract_features(peer, detector, image)
    original = ImageSize(*image.shape[:2])
    scale = (original.width / size.width, original.height / size.height) * 2
    if detector.config.retinanet is not None:
        detections = classify_anchors(peer, detector, maps, size)
    else:
        proposals = propose(peer, detector, maps, size)
        detections = classify(peer, detector, maps, proposals, size)
    scores, labels, boxes = zip(*detections, strict=True)
    masks = points = None
    if detector.config.mask is not None:
        masks = predict_masks(peer, detector, maps, boxes, labels)
    if detector.config.keypoint is not None:
        points = locate_keypoints(peer, detector, maps, boxes) * torch.tensor(scale[:2])
    boxes = [[c * s for c, s in zip(box, scale, strict=True)] for box in boxes]
    if masks is not None:
        pasted = [peer.paste(m, box, *original) for m, box in zip(masks, boxes, strict=True)]
        masks = torch.stack(pasted)
    boxes_xywh = [[*box[:2], *peer.sides(box)] for box in boxes]
    return torch.tensor(scores), list(labels), torch.tensor(boxes_xywh), masks, points
