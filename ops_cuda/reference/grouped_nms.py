"""Twin of suppression in many groups at once."""

import torch
from torch import Tensor

from ops_cuda.reference.nms import nms


def grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, ranked: bool
) -> tuple[Tensor, Tensor]:
    """Twin of `ops_cuda.grouped_nms`: `nms` of each group, padded to one length."""
    groups, size = scores.shape
    kept = boxes.new_zeros(groups, min(size, max_kept), dtype=torch.int64)
    counts = boxes.new_zeros(groups, dtype=torch.int64)
    position = torch.arange(size, 0, -1, device=boxes.device, dtype=scores.dtype)
    for group in range(groups):
        members = (scores[group] != -torch.inf).nonzero().squeeze(1)
        rank = position[members] if ranked else scores[group, members]
        chosen = members[nms(boxes[group, members], rank, iou_threshold, max_kept)]
        kept[group, : len(chosen)] = chosen
        counts[group] = len(chosen)
    return kept, counts
