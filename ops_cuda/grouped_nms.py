"""Greedy non-maximum suppression in many groups at once, with an output of fixed size."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import (
    require_floating,
    require_fraction,
    require_one_device,
    single_or_double,
)


def grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, ranked: bool = False
) -> tuple[Tensor, Tensor]:
    """`nms` of G groups of N boxes each; nothing waits for the device.

    Groups that hold fewer boxes are filled up with scores of -inf: such boxes are never kept and
    suppress nothing.

    Args:
        boxes: (G, N, 4) float, x1 y1 x2 y2. A box with a NaN overlaps nothing.
        scores: (G, N) float; equal scores rank by index, NaN ranks first.
        iou_threshold: overlap above which the lower score is dropped, in [0, 1].
        max_kept: stop after this many per group.
        ranked: every row stands best first already; boxes at -inf may stand anywhere.

    Returns:
        Indices (G, K) int64 into each group, K = min(N, max_kept), best first, 0 after a group's
        last; and how many each group keeps, (G,) int64.

    Raises:
        ValueError: shapes, types, devices, the threshold or max_kept are not as above.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be (G, N, 4); got {tuple(boxes.shape)}")
    require_floating("boxes", boxes)
    if scores.shape != boxes.shape[:2]:
        raise ValueError(
            f"scores must be (G, N), one per box of {tuple(boxes.shape[:2])}; "
            f"got {tuple(scores.shape)}"
        )
    require_one_device(boxes=boxes, scores=scores)
    require_fraction("iou_threshold", iou_threshold)
    if max_kept < 0:
        raise ValueError(f"max_kept must not be negative; got {max_kept}")
    boxes = single_or_double(boxes.detach())
    options = (boxes, scores.detach().to(boxes.dtype), iou_threshold, max_kept, ranked)
    if not library.compiled_for("grouped_nms", boxes.device):
        return reference.grouped_nms(*options)
    kept: Tensor
    counts: Tensor
    kept, counts = torch.ops.ops_cuda.grouped_nms(*options)
    return kept, counts
