"""Which object each anchor or proposal overlaps most, without the matrix of all overlaps."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import (
    require_floating,
    require_fraction,
    require_indices,
    require_one_device,
    require_rows,
)

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match_boxes(
    candidates: Tensor,
    truths: Tensor,
    truth_offsets: Tensor,
    positive_iou: float,
    negative_iou: float,
    keep_best: bool = False,
) -> tuple[Tensor, Tensor]:
    """Match the candidates of B images to the true box of their image that they overlap most.

    Overlaps are those of ``torchvision.ops.box_iou`` in float32, bit for bit; one that is no number
    (a NaN in either box, infinite boxes, two boxes without area) counts as none.

    Args:
        candidates: (B, N, 4) float, x1 y1 x2 y2; (1, N, 4) where all images share them.
        truths: (G, 4) float, the true boxes of all images, image after image.
        truth_offsets: (B + 1,) int64, ascending from 0: image b owns truths[offsets[b]:
            offsets[b + 1]]. On CUDA nobody looks whether they ascend: they are clamped to G.
        positive_iou: a candidate with at least this overlap is POSITIVE (1).
        negative_iou: one below this is NEGATIVE (0); between the two it is IGNORED (-1).
        keep_best: also make positive, for each true box that anything overlaps, the candidates that
            overlap it most (all that tie). Such a candidate keeps the index of the true box that
            *it* overlaps most, as in Detectron.

    Returns:
        truth: (B, N) int64, index within its image's true boxes, the first of equals; 0 where
        nothing overlaps. verdict: (B, N) int64; NEGATIVE in images without true boxes.
        Memory beside these: O(B * N + G).

    Raises:
        ValueError: shapes, types, devices or thresholds are not as above.
        RuntimeError: offsets do not ascend from 0 to at most G (CPU).

    Source: Ren et al. 2015, section 3.1.2.
    """
    if candidates.ndim != 3 or candidates.shape[2] != 4:
        raise ValueError(f"candidates must be (B or 1, N, 4); got {tuple(candidates.shape)}")
    require_floating("candidates", candidates)
    require_rows("truths", truths, 4)
    require_indices("truth_offsets", truth_offsets)
    images = len(truth_offsets) - 1
    if images < 0 or candidates.shape[0] not in (1, images):
        raise ValueError(
            f"truth_offsets must be (B + 1,), one more than images; got {images + 1} for "
            f"candidates of {candidates.shape[0]}"
        )
    require_one_device(candidates=candidates, truths=truths, truth_offsets=truth_offsets)
    require_fraction("positive_iou", positive_iou)
    require_fraction("negative_iou", negative_iou)
    if negative_iou > positive_iou:
        raise ValueError(f"negative_iou {negative_iou} is above positive_iou {positive_iou}")
    candidates, truths = candidates.detach().float(), truths.detach().float()
    arguments = (candidates, truths, truth_offsets, positive_iou, negative_iou, keep_best)
    if not library.compiled_for("match_boxes", candidates.device):
        return reference.match_boxes(*arguments)
    truth, verdict = torch.ops.ops_cuda.match_boxes(*arguments)
    return truth, verdict
