"""Twins of the operators that make proposals."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Twin of `ops_cuda.top_scores`: topk of keys that are all different.

    It also serves CUDA: topk is faster than a sort but ranks equal scores as it likes, so a key
    holds the bits of a score, in the order of the scores, and the index below them.
    """
    width = scores.shape[1]
    scores = scores + 0.0  # -0 and 0 are equal scores
    bits = torch.where(scores.isnan(), torch.nan, scores).view(torch.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    index = torch.arange(width, device=scores.device)
    keys = rising.long() * 2**32 + (width - index)
    best = keys.topk(min(count, width), dim=1).indices
    return scores.gather(1, best), best


def decode_proposals(
    scores: Sequence[Tensor],
    indices: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    min_side: float,
    largest_log_scale: float,
    kept_side: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Twin of `ops_cuda.decode_proposals`, level by level."""
    most = torch.cat((limits[:, :2] - kept_side, limits[:, 2:]), dim=1)[:, None]
    longest = max(level.shape[1] for level in scores)
    all_boxes, all_scores = [], []
    for score, index, delta, anchor in zip(scores, indices, deltas, anchors, strict=True):
        chosen, reference = delta.gather(1, index[..., None].expand(-1, -1, 4)), anchor[index]
        side = reference[..., 2:] - reference[..., :2]
        centre = chosen[..., :2] * side + (reference[..., :2] + 0.5 * side)
        half = 0.5 * chosen[..., 2:].clamp(max=largest_log_scale).exp() * side
        near, far = (centre - half).clamp(min=0), (centre + half).clamp(min=kept_side)
        boxes = torch.cat((near, far), dim=-1)
        boxes = torch.minimum(boxes, most)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= min_side).all(dim=-1) & ~score.isnan()
        padding = longest - score.shape[1]
        all_boxes.append(F.pad(torch.where(large[..., None], boxes, 0.0), (0, 0, 0, padding)))
        all_scores.append(
            F.pad(torch.where(large, score, -torch.inf), (0, padding), value=-torch.inf)
        )
    return torch.stack(all_boxes, 1), torch.stack(all_scores, 1)
