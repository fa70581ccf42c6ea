"""What the region proposal network learns from: sampled anchors against the objects they cover.

Shapes: B images, L levels, A anchors of an image on all levels, S sampled anchors of an image.
Source: Ren et al. 2015, section 3.1.2.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.coding import BoxCoder
from model.boxes.matching import match_to_objects
from model.boxes.sampling import ANCHORS, sample_candidates
from model.config import RpnConfig
from model.structures import LossTerm
from model.structures.batch_targets import BatchTruths
from ops_cuda import IGNORED


def rpn_losses(
    judge: Callable[[Tensor], tuple[Tensor, Tensor]],
    anchors: Tensor,
    truths: BatchTruths,
    seeds: Sequence[int],
    settings: RpnConfig,
    coder: BoxCoder,
    smooth_l1_beta: float,
    eligible: Tensor | None = None,
) -> dict[str, LossTerm]:
    """Cross-entropy of sampled anchors, and smooth L1 of the positive ones' boxes.

    Args:
        judge: gives the logits (B, S) and deltas (B, S, 4), float32, of anchors (B, S) int64.
        anchors: (A, 4) float32 of all levels, pixels.
        truths: the objects of the B images.
        seeds: one per image, for the random choice.
        settings: thresholds and number of samples.
        coder: of the deltas.
        smooth_l1_beta: where the box loss turns from square to linear; 0 is plain L1.
        eligible: (B, A) bool, the anchors that may be sampled; None: all of them.

    Returns:
        rpn_objectness and rpn_box, both counted over all sampled anchors.
    """
    with torch.no_grad():
        matches = match_to_objects(
            anchors[None], truths, settings.positive_iou, settings.negative_iou, keep_best=True
        )
        verdict = matches.verdict
        if eligible is not None:
            verdict = torch.where(eligible, verdict, IGNORED)
        chosen = sample_candidates(
            verdict,
            settings.samples_per_image,
            settings.positive_fraction,
            seeds,
            ANCHORS,
        )
        # Positives never lie beyond these slots.
        positive = chosen.candidate[:, : chosen.most_positive]
        is_positive = chosen.is_positive[:, : chosen.most_positive]
        references = anchors[positive]
        matched = truths.boxes[matches.truth.gather(1, positive) + truths.first[:, None]]
        # Where no anchor is meant, the anchor itself: a target of zeros instead of log(0).
        wanted = coder.encode(torch.where(is_positive[..., None], matched, references), references)
    logit, deltas = judge(chosen.candidate)
    predicted = deltas[:, : chosen.most_positive]
    distance = F.smooth_l1_loss(predicted, wanted, beta=smooth_l1_beta, reduction="none").sum(-1)
    # Binary cross-entropy of a positive is softplus(-logit), of a negative softplus(logit).
    surprise = F.softplus(torch.where(chosen.is_positive, -logit, logit))
    is_sample = chosen.is_positive | chosen.is_negative
    count = is_sample.sum()
    return {
        "rpn_objectness": LossTerm((surprise * is_sample).sum(), count),
        "rpn_box": LossTerm((distance * is_positive).sum(), count),
    }


def gather_from_levels(levels: Sequence[Tensor], index: Tensor) -> Tensor:
    """Values of chosen anchors, without joining the levels, whose gradient would have to be cut up.

    Args:
        levels: per level (B, A_l) or (B, A_l, D).
        index: (B, S) int64 among the A anchors of all levels.

    Returns:
        (B, S) or (B, S, D).
    """
    found: Tensor | None = None
    start = 0
    for level in levels:
        size, wide = level.shape[1], level.ndim == 3
        local = index - start
        is_here = (local >= 0) & (local < size)
        rows = local.clamp(0, size - 1)
        if wide:
            rows = rows[..., None].expand(-1, -1, level.shape[2])
            is_here = is_here[..., None]
        values = level.gather(1, rows)
        found = values * is_here if found is None else torch.where(is_here, values, found)
        start += size
    if found is None:
        raise ValueError("a pyramid needs at least one level")
    return found
