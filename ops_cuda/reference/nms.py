"""Twins of greedy non-maximum suppression."""

import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int = -1) -> Tensor:
    """Twin of `ops_cuda.nms`: keep the best box, drop what overlaps it, repeat."""
    order = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Tensor] = []
    while len(order) and len(kept) != max_kept:
        best, rest = order[0], order[1:]
        kept.append(best)
        upper_left = torch.maximum(boxes[best, :2], boxes[rest, :2])
        lower_right = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        width, height = (lower_right - upper_left).clamp(min=0).unbind(1)
        shared = width * height
        iou = shared / (areas[best] + areas[rest] - shared)
        # as doubles, like torchvision: the threshold is not rounded to the boxes' precision
        order = rest[~(iou.double() > iou_threshold)]
    return torch.stack(kept) if kept else order.new_empty(0)


def batched_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """Twin of `ops_cuda.batched_nms`: `nms` of each class, best scores of all classes first."""
    survives = surviving_boxes(boxes, scores, classes, iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    kept = order[survives[order]]
    return kept if max_kept < 0 else kept[:max_kept]


def surviving_boxes(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Twin of `ops_cuda.surviving_boxes`: mark what `nms` of each class keeps."""
    survives = torch.zeros_like(scores, dtype=torch.bool)
    for label in torch.unique(classes):
        members = (classes == label).nonzero().squeeze(1)
        survives[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    return survives
