"""Inference step by step, as slow and plain as it can be written, in float64 and with loops.

Only layers are the detector's own: what happens to boxes and masks between them is worked out
here, by the rules of a library that a ``Form`` holds. Boxes are that library's own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision

from model.structures import ImageBatch, ImageSize


@dataclass(frozen=True)
class Form:
    """A library's rules.

    Args:
        resized: (height, width, short side, long side) to the size of the network's image.
        anchors: (sizes, ratios, stride) to the boxes of cell (0, 0), by ratio, then by size.
        sides: width and height of a box.
        from_centre: (centre x, centre y, width, height) to a box.
        last: largest coordinate of a side of so many pixels.
        align: how torchvision's roi_align pools.
        paste: (mask, box, height, width) to a bitmap.
    """

    resized: Callable
    anchors: Callable
    sides: Callable
    from_centre: Callable
    last: Callable
    align: dict
    paste: Callable


def decode(form, box, deltas):
    width, height = form.sides(box)
    dx, dy, dw, dh = (float(each) for each in deltas)
    dw, dh = (min(each, math.log(1000 / 16)) for each in (dw, dh))
    return form.from_centre(
        box[0] + 0.5 * width + dx * width,
        box[1] + 0.5 * height + dy * height,
        width * math.exp(dw),
        height * math.exp(dh),
    )


def clip(form, box, size):
    limits = (form.last(size.width), form.last(size.height)) * 2
    return [min(max(each, 0.0), limit) for each, limit in zip(box, limits, strict=True)]


def overlap(form, one, other):
    shared = [max(one[0], other[0]), max(one[1], other[1])]
    shared += [min(one[2], other[2]), min(one[3], other[3])]
    width, height = (max(0.0, side) for side in form.sides(shared))
    areas = [math.prod(form.sides(box)) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def suppress(form, boxes, scores, threshold):
    """Indices of the boxes that no better one overlaps by more, best first."""
    kept = []
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        if all(overlap(form, boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(int(index))
    return kept


def levels_of(detector):
    """Stride and anchor sizes of each map."""
    config = detector.config
    if config.retinanet is not None:
        steps = [2 ** (step / config.retinanet.anchor_scales) for step in range(3)]
        sizes = [[size * step for step in steps] for size in config.retinanet.anchor_sizes]
        return [(8 * 2**level, each) for level, each in enumerate(sizes)]
    if config.backbone.features == "c4":
        return [(16, config.rpn.anchor_sizes)]
    return [(4 * 2**level, [size]) for level, size in enumerate(config.rpn.anchor_sizes)]


def tile(form, detector, maps):
    """The anchors of each level, row by row."""
    levels = []
    settings = detector.config.retinanet or detector.config.rpn
    for (stride, sizes), feature in zip(levels_of(detector), maps, strict=True):
        base = form.anchors(sizes, settings.anchor_ratios, stride)
        levels.append(
            [
                [x1 + stride * column, y1 + stride * row, x2 + stride * column, y2 + stride * row]
                for row in range(feature.shape[2])
                for column in range(feature.shape[3])
                for x1, y1, x2, y2 in base
            ]
        )
    return levels


def best_of_levels(form, detector, maps, image, size, pre_nms, post_nms):
    """Score and box of the anchors of an image that no better one of their level overlaps."""
    settings, found = detector.config.rpn, []
    for anchors, feature in zip(tile(form, detector, maps), maps, strict=True):
        logits, deltas = (each[image].detach().numpy() for each in detector.rpn.head(feature))
        best = np.argsort(-logits, kind="stable")[:pre_nms]
        boxes = [clip(form, decode(form, anchors[i], deltas[i]), size) for i in best]
        large = [i for i, box in enumerate(boxes) if min(form.sides(box)) > 0]
        boxes, scores = [boxes[i] for i in large], [logits[best[i]] for i in large]
        found += [
            (scores[i], boxes[i])
            for i in suppress(form, boxes, scores, settings.nms_iou)[:post_nms]
        ]
    return sorted(found, key=lambda pair: -pair[0])


def propose(form, detector, maps, size):
    """The best proposals of the one image."""
    pre_nms, post_nms = detector.config.rpn.pre_nms_test, detector.config.rpn.post_nms_test
    best = best_of_levels(form, detector, maps, 0, size, pre_nms, post_nms)
    return [box for _, box in best[:post_nms]]


def pool(form, maps, boxes, side, image=0):
    """Features of each box of an image, from the level that its size asks for."""
    pooled = []
    for box in boxes:
        level = math.floor(4 + math.log2(math.sqrt(math.prod(form.sides(box))) / 224 + 1e-8))
        level = 4 if len(maps) == 1 else min(max(level, 2), 5)
        roi = torch.tensor([[float(image), *box]])
        pooled.append(
            torchvision.ops.roi_align(
                maps[0 if len(maps) == 1 else level - 2], roi, side, 1 / 2**level, **form.align
            )
        )
    return torch.cat(pooled)


def classify(form, detector, maps, proposals, size):
    """Score, label and box of every object, best first."""
    settings, found = detector.config.box, []
    logits, deltas = detector.roi_heads.box(pool(form, maps, proposals, settings.pool_side))
    scores = logits.softmax(dim=1).numpy()
    deltas = deltas.numpy().astype(np.float64) / np.array(settings.delta_weights)
    for label in range(1, scores.shape[1]):
        sure = np.flatnonzero(scores[:, label] > settings.score_threshold)
        boxes = [clip(form, decode(form, proposals[i], deltas[i, label]), size) for i in sure]
        kept = suppress(form, boxes, scores[sure, label], settings.nms_iou)
        found += [(float(scores[sure[i], label]), label, boxes[i]) for i in kept]
    return sorted(found, key=lambda each: -each[0])[: settings.detections_per_image]


def judge_anchors(form, detector, maps, size):
    """Score, label and box of every object of a detector without proposals, best first."""
    settings, candidates = detector.config.retinanet, []
    for anchors, feature in zip(tile(form, detector, maps), maps, strict=True):
        logits, deltas = (each[0].numpy() for each in detector.retinanet(feature))
        scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
        pairs = np.argsort(-scores, axis=None, kind="stable")[: settings.pre_nms]
        for anchor, label in zip(*np.unravel_index(pairs, scores.shape), strict=True):
            if scores[anchor, label] > settings.score_threshold:
                box = clip(form, decode(form, anchors[anchor], deltas[anchor]), size)
                candidates.append((scores[anchor, label], int(label) + 1, box))
    found = []
    for label in {label for _, label, _ in candidates}:
        own = [each for each in candidates if each[1] == label]
        scores, _, boxes = zip(*own, strict=True)
        found += [own[i] for i in suppress(form, boxes, scores, settings.nms_iou)]
    return sorted(found, key=lambda each: -each[0])[: settings.detections_per_image]


def draw_masks(form, detector, maps, boxes, labels):
    """The masks inside boxes."""
    heads, config = detector.roi_heads, detector.config
    if config.backbone.features == "c4":
        shown = heads.box.describe(pool(form, maps, boxes, config.box.pool_side))
    else:
        shown = pool(form, maps, boxes, config.mask.pool_side)
    return heads.mask(shown, torch.tensor(labels)).sigmoid()


def look_at(form, detector, picture):
    """The feature maps of a picture, and the size that it was resized to."""
    original, rule = ImageSize(*picture.shape[:2]), detector.config.input
    size = ImageSize(*form.resized(*original, rule.short_side, rule.long_side))
    canvas = ImageSize(*(-(-side // 32) * 32 for side in size))
    pixels = detector.normalise([torch.from_numpy(picture)], [size], canvas)
    return detector.features(ImageBatch(pixels, (size,), (original,))), size


def place_keypoints(form, detector, maps, boxes):
    """x and y of each box's keypoints: the best place of a heatmap resized to whole pixels."""
    found, side = [], detector.config.keypoint.pool_side
    for box in boxes:
        width, height = max(box[2] - box[0], 1), max(box[3] - box[1], 1)
        pixels = math.ceil(height), math.ceil(width)
        heatmaps = detector.roi_heads.keypoint(pool(form, maps, [box], side))
        heatmaps = torch.nn.functional.interpolate(heatmaps, pixels, mode="bicubic")[0]
        for heatmap in heatmaps:
            row, column = divmod(int(heatmap.argmax()), pixels[1])
            x = box[0] + (column + 0.5) * width / pixels[1]
            found.append([x, box[1] + (row + 0.5) * height / pixels[0]])
    return torch.tensor(found).view(len(boxes), -1, 2)


@torch.inference_mode()
def find_objects(form, detector, picture):
    """What is in a picture (h, w, 3) uint8.

    Returns:
        Scores, labels, boxes as x y w h, bitmaps (N, h, w) and keypoints (N, P, 2) or
        None, in the picture's own pixels.
    """
    maps, size = look_at(form, detector, picture)
    original = ImageSize(*picture.shape[:2])
    scale = (original.width / size.width, original.height / size.height) * 2
    if detector.config.retinanet is not None:
        found = judge_anchors(form, detector, maps, size)
    else:
        found = classify(form, detector, maps, propose(form, detector, maps, size), size)
    scores, labels, boxes = zip(*found, strict=True)
    masks = points = None
    if detector.config.mask is not None:
        masks = draw_masks(form, detector, maps, boxes, labels)
    if detector.config.keypoint is not None:
        points = place_keypoints(form, detector, maps, boxes) * torch.tensor(scale[:2])
    boxes = [[c * s for c, s in zip(box, scale, strict=True)] for box in boxes]
    if masks is not None:
        pasted = [form.paste(m, box, *original) for m, box in zip(masks, boxes, strict=True)]
        masks = torch.stack(pasted)
    extents = [[*box[:2], *form.sides(box)] for box in boxes]
    return torch.tensor(scores), list(labels), torch.tensor(extents), masks, points
