"""Greedy non-maximum suppression, over all boxes or within each class."""

import torch
from torch import Tensor

from ops_cuda.checks import (
    require_equal_length,
    require_fraction,
    require_indices,
    require_one_device,
    require_rows,
    single_or_double,
)
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int = -1) -> Tensor:
    """Suppress boxes that overlap a box of higher score by more than ``iou_threshold``.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2. A box with a NaN overlaps nothing.
        scores: (N,) float; equal scores rank by index, NaN ranks first, as in torchvision.
        iou_threshold: IoU above which the box of lower score is suppressed, in [0, 1].
        max_kept: stop after this many boxes; -1 keeps all.

    Returns:
        Indices of the kept boxes, int64, highest score first: those of ``torchvision.ops.nms``.

    Raises:
        ValueError: shapes, types, devices or the threshold are not as above.
    """
    boxes, scores = _check_boxes(boxes, scores, iou_threshold, max_kept)
    if not compiled_for("nms", boxes.device):
        return nms_reference(boxes, scores, iou_threshold, max_kept)
    kept: Tensor = torch.ops.ops_cuda.nms(boxes, scores, iou_threshold, max_kept)
    return kept


def batched_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """Suppress as `nms` does, but only among boxes of the same class.

    Exact: classes are compared. Boxes are not offset by class, which loses precision and fails on
    negative or very large coordinates.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        classes: (N,) int64, any values: object classes, or pyramid levels.
        iou_threshold: IoU above which the box of lower score is suppressed, in [0, 1].
        max_kept: keep at most this many over all classes, highest scores first; -1 keeps all.

    Returns:
        Indices of the kept boxes, int64, highest score first.

    Raises:
        ValueError: shapes, types, devices or the threshold are not as above.
    """
    boxes, scores = _check_boxes(boxes, scores, iou_threshold, max_kept)
    _check_classes(boxes, classes)
    if not compiled_for("batched_nms", boxes.device):
        return batched_nms_reference(boxes, scores, classes, iou_threshold, max_kept)
    kept: Tensor = torch.ops.ops_cuda.batched_nms(boxes, scores, classes, iou_threshold, max_kept)
    return kept


def batched_nms_mask(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float
) -> Tensor:
    """Return what `batched_nms` keeps as a mask, whose fixed size needs no device sync.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        classes: (N,) int64, any values.
        iou_threshold: IoU above which the box of lower score is suppressed, in [0, 1].

    Returns:
        (N,) bool, in the order of the boxes.

    Raises:
        ValueError: shapes, types, devices or the threshold are not as above.
    """
    boxes, scores = _check_boxes(boxes, scores, iou_threshold, max_kept=-1)
    _check_classes(boxes, classes)
    if not compiled_for("batched_nms_mask", boxes.device):
        return batched_nms_mask_reference(boxes, scores, classes, iou_threshold)
    is_kept: Tensor = torch.ops.ops_cuda.batched_nms_mask(boxes, scores, classes, iou_threshold)
    return is_kept


def _check_boxes(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int
) -> tuple[Tensor, Tensor]:
    """Check the arguments, and return boxes and scores detached, in float32 or float64."""
    require_rows("boxes", boxes, 4)
    if scores.ndim != 1:
        raise ValueError(f"scores must be (N,); got {tuple(scores.shape)}")
    require_equal_length(boxes=boxes, scores=scores)
    require_one_device(boxes=boxes, scores=scores)
    require_fraction("iou_threshold", iou_threshold)
    if max_kept < -1:
        raise ValueError(f"max_kept must be -1 (all) or a count; got {max_kept}")
    boxes = single_or_double(boxes.detach())
    return boxes, scores.detach().to(boxes.dtype)


def _check_classes(boxes: Tensor, classes: Tensor) -> None:
    require_indices("classes", classes)
    require_equal_length(boxes=boxes, classes=classes)
    require_one_device(boxes=boxes, classes=classes)


@register_fake("nms")
def _nms_fake(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)


@register_fake("batched_nms")
def _batched_nms_fake(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    return _nms_fake(boxes, scores, iou_threshold, max_kept)


@register_fake("batched_nms_mask")
def _batched_nms_mask_fake(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


register_autocast_to_float32("nms", "batched_nms", "batched_nms_mask")


def nms_reference(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """Keep the best box, drop what overlaps it, repeat."""
    order = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Tensor] = []
    while len(order) and len(kept) != max_kept:
        best, rest = order[0], order[1:]
        kept.append(best)
        upper_left = torch.maximum(boxes[best, :2], boxes[rest, :2])
        lower_right = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        width, height = (lower_right - upper_left).clamp(min=0).unbind(1)
        intersection = width * height
        iou = intersection / (areas[best] + areas[rest] - intersection)
        # float64, as in torchvision: the threshold is not rounded to the boxes' precision
        order = rest[~(iou.double() > iou_threshold)]
    return torch.stack(kept) if kept else order.new_empty(0)


def batched_nms_reference(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """Run `nms_reference` on each class, then sort the kept boxes of all classes by score."""
    is_kept = batched_nms_mask_reference(boxes, scores, classes, iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    kept = order[is_kept[order]]
    return kept if max_kept < 0 else kept[:max_kept]


def batched_nms_mask_reference(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float
) -> Tensor:
    """Mark the boxes that `nms_reference` of each class keeps."""
    is_kept = torch.zeros_like(scores, dtype=torch.bool)
    for label in torch.unique(classes):
        members = (classes == label).nonzero().squeeze(1)
        is_kept[members[nms_reference(boxes[members], scores[members], iou_threshold)]] = True
    return is_kept
