"""Greedy non-maximum suppression in many groups at once, with an output of fixed size."""

import torch
from torch import Tensor

from ops_cuda.checks import (
    require_floating,
    require_fraction,
    require_one_device,
    single_or_double,
)
from ops_cuda.library import compiled_for
from ops_cuda.nms import nms_reference
from ops_cuda.registration import register_autocast_to_float32, register_fake


def grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, presorted: bool = False
) -> tuple[Tensor, Tensor]:
    """Run `nms` on groups of N boxes each, without a device sync.

    Pad groups of fewer boxes with scores of -inf: such boxes are never kept and suppress nothing.

    Args:
        boxes: (groups, N, 4) float, x1 y1 x2 y2. A box with a NaN overlaps nothing.
        scores: (groups, N) float; equal scores rank by index, NaN ranks first.
        iou_threshold: IoU above which the box of lower score is suppressed, in [0, 1].
        max_kept: stop after this many boxes per group.
        presorted: each group is already sorted, highest score first; boxes at -inf may be anywhere.

    Returns:
        kept: (groups, min(N, max_kept)) int64, indices into each group, highest score first,
            padded with 0.
        counts: (groups,) int64, number of boxes kept in each group.

    Raises:
        ValueError: shapes, types, devices, the threshold or max_kept are not as above.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be (groups, N, 4); got {tuple(boxes.shape)}")
    require_floating("boxes", boxes)
    if scores.shape != boxes.shape[:2]:
        raise ValueError(
            f"scores must be (groups, N), one per box of {tuple(boxes.shape[:2])}; "
            f"got {tuple(scores.shape)}"
        )
    require_one_device(boxes=boxes, scores=scores)
    require_fraction("iou_threshold", iou_threshold)
    if max_kept < 0:
        raise ValueError(f"max_kept must not be negative; got {max_kept}")
    boxes = single_or_double(boxes.detach())
    arguments = (boxes, scores.detach().to(boxes.dtype), iou_threshold, max_kept, presorted)
    if not compiled_for("grouped_nms", boxes.device):
        return grouped_nms_reference(*arguments)
    kept: Tensor
    counts: Tensor
    kept, counts = torch.ops.ops_cuda.grouped_nms(*arguments)
    return kept, counts


@register_fake("grouped_nms")
def _grouped_nms_fake(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, presorted: bool
) -> tuple[Tensor, Tensor]:
    groups, size = scores.shape
    kept = boxes.new_empty(groups, min(size, max_kept), dtype=torch.int64)
    return kept, boxes.new_empty(groups, dtype=torch.int64)


register_autocast_to_float32("grouped_nms")


def grouped_nms_reference(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, presorted: bool
) -> tuple[Tensor, Tensor]:
    """Run `nms_reference` on each group and pad the results to one length."""
    groups, size = scores.shape
    kept = boxes.new_zeros(groups, min(size, max_kept), dtype=torch.int64)
    counts = boxes.new_zeros(groups, dtype=torch.int64)
    descending = torch.arange(size, 0, -1, device=boxes.device, dtype=scores.dtype)
    for group in range(groups):
        members = (scores[group] != -torch.inf).nonzero().squeeze(1)
        rank = descending[members] if presorted else scores[group, members]
        selected = members[nms_reference(boxes[group, members], rank, iou_threshold, max_kept)]
        kept[group, : len(selected)] = selected
        counts[group] = len(selected)
    return kept, counts
