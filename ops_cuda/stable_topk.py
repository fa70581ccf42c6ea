"""The highest scores of each row, in a defined order."""

import torch
from torch import Tensor

from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake


def stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` highest scores of each row, as `torch.topk` but with a defined order.

    Args:
        scores: (B, N) float; equal scores rank by index, NaN ranks first.
        k: how many scores per row.

    Returns:
        values: (B, min(N, k)) float32, highest first.
        indices: (B, min(N, k)) int64, their indices.

    Raises:
        ValueError: shape, type or k are not as above.
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(
            f"scores must be (B, N), floating point; got {tuple(scores.shape)} {scores.dtype}"
        )
    if k < 0:
        raise ValueError(f"k must not be negative; got {k}")
    scores = scores.detach().float()
    if not compiled_for("stable_topk", scores.device):
        return stable_topk_reference(scores, k)
    values: Tensor
    indices: Tensor
    values, indices = torch.ops.ops_cuda.stable_topk(scores, k)
    return values, indices


@register_fake("stable_topk")
def _stable_topk_fake(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values = scores.new_empty(scores.shape[0], min(k, scores.shape[1]))
    return values, torch.empty_like(values, dtype=torch.int64)


register_autocast_to_float32("stable_topk")


def stable_topk_reference(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Run `torch.topk` on keys that are all different.

    Used on CUDA too: topk is faster than a sort but returns equal scores in any order, so the upper
    bits of a key are those of the score, mapped to ascend with it, and the lower bits the index.
    """
    width = scores.shape[1]
    scores = scores + 0.0  # -0 and 0 are equal scores
    bits = torch.where(scores.isnan(), torch.nan, scores).view(torch.int32)
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    index = torch.arange(width, device=scores.device)
    keys = ascending.long() * 2**32 + (width - index)
    indices = keys.topk(min(k, width), dim=1).indices
    return scores.gather(1, indices), indices
