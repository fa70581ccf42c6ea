"""Greedy non-maximum suppression, over all boxes or within each class."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import (
    require_equal_length,
    require_fraction,
    require_indices,
    require_one_device,
    require_rows,
    single_or_double,
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int = -1) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than ``iou_threshold``.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2. A box with a NaN overlaps nothing.
        scores: (N,) float; equal scores rank by index, NaN ranks first, as in torchvision.
        iou_threshold: overlap above which the lower score is dropped, in [0, 1].
        max_kept: stop after this many; -1 keeps all.

    Returns:
        (K,) int64, best score first: the indices of ``torchvision.ops.nms``.

    Raises:
        ValueError: shapes, types, devices or the threshold are not as above.
    """
    boxes, scores = _checked(boxes, scores, iou_threshold, max_kept)
    if not library.compiled_for("nms", boxes.device):
        return reference.nms(boxes, scores, iou_threshold, max_kept)
    kept: Tensor = torch.ops.ops_cuda.nms(boxes, scores, iou_threshold, max_kept)
    return kept


def batched_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """As `nms`, but only boxes of one class suppress each other.

    Exact: classes are compared, boxes are not moved apart (which loses precision and fails on
    negative or very large coordinates).

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        classes: (N,) int64, any values: object classes, or pyramid levels.
        iou_threshold: overlap above which the lower score is dropped, in [0, 1].
        max_kept: keep at most this many over all classes, best first; -1 keeps all.

    Returns:
        (K,) int64, best score first.

    Raises:
        ValueError: shapes, types, devices or the threshold are not as above.
    """
    boxes, scores = _checked(boxes, scores, iou_threshold, max_kept)
    _check_classes(boxes, classes)
    if not library.compiled_for("batched_nms", boxes.device):
        return reference.batched_nms(boxes, scores, classes, iou_threshold, max_kept)
    kept: Tensor = torch.ops.ops_cuda.batched_nms(boxes, scores, classes, iou_threshold, max_kept)
    return kept


def surviving_boxes(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """What `batched_nms` keeps, as a mask: of fixed size, so that nobody waits for the device.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        classes: (N,) int64, any values.
        iou_threshold: overlap above which the lower score is dropped, in [0, 1].

    Returns:
        (N,) bool, in the order of the boxes.

    Raises:
        ValueError: shapes, types, devices or the threshold are not as above.
    """
    boxes, scores = _checked(boxes, scores, iou_threshold, max_kept=-1)
    _check_classes(boxes, classes)
    if not library.compiled_for("surviving_boxes", boxes.device):
        return reference.surviving_boxes(boxes, scores, classes, iou_threshold)
    survives: Tensor = torch.ops.ops_cuda.surviving_boxes(boxes, scores, classes, iou_threshold)
    return survives


def _check_classes(boxes: Tensor, classes: Tensor) -> None:
    require_indices("classes", classes)
    require_equal_length(boxes=boxes, classes=classes)
    require_one_device(boxes=boxes, classes=classes)


def _checked(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int
) -> tuple[Tensor, Tensor]:
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
