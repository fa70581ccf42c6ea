"""Which object, if any, each anchor or proposal is trained to find.

Shapes: N candidate boxes, G true boxes (ground truth).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class Matches(NamedTuple):
    """The verdict on N candidates.

    Args:
        truth: (N,) int64, the true box with the largest overlap; 0 where there is none at all.
        verdict: (N,) int64, POSITIVE, NEGATIVE or IGNORED.
    """

    truth: Tensor
    verdict: Tensor


def match_boxes(
    candidates: Tensor,
    truths: Tensor,
    positive_iou: float,
    negative_iou: float,
    keep_best: bool = False,
) -> Matches:
    """Match each candidate to the true box it overlaps most.

    Args:
        candidates: (N, 4) float32, pixels.
        truths: (G, 4) float32, pixels; G may be 0, then every candidate is negative.
        positive_iou: a candidate with at least this overlap is positive.
        negative_iou: one below this is negative; between the two it is ignored.
        keep_best: also make positive, for each true box, the candidates that overlap it most
            (all that tie), so that no object goes without. Such a candidate is still trained
            towards the true box that *it* overlaps most, as in Detectron.

    Source: Ren et al. 2015, section 3.1.2.
    """
    if not len(truths):
        nothing = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
        return Matches(nothing, nothing + NEGATIVE)
    overlap = box_iou(truths, candidates)  # (G, N)
    best, truth = overlap.max(dim=0)
    verdict = torch.where(best >= negative_iou, IGNORED, NEGATIVE)
    positive = best >= positive_iou
    if keep_best:
        best_of_truth = overlap.amax(dim=1, keepdim=True)
        # A true box that no candidate touches would otherwise "tie" with all of them.
        positive |= ((overlap == best_of_truth) & (best_of_truth > 0)).any(dim=0)
    return Matches(truth, torch.where(positive, POSITIVE, verdict))
