"""The losses of the region proposal network. Shapes as in ``model.structures``.

Source: Ren et al. 2015, section 3.1.2.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.coding import BoxCoder
from model.boxes.matching import match_to_targets
from model.boxes.sampling import ANCHORS, sample_candidates
from model.config import RpnConfig
from model.structures import BatchTargets, LossTerm
from ops_cuda import IGNORED


def rpn_losses(
    predict: Callable[[Tensor], tuple[Tensor, Tensor]],
    anchors: Tensor,
    targets: BatchTargets,
    seeds: Sequence[int],
    settings: RpnConfig,
    coder: BoxCoder,
    smooth_l1_beta: float,
    eligible: Tensor | None = None,
) -> dict[str, LossTerm]:
    """Return the cross-entropy of sampled anchors and the smooth L1 loss of positive boxes.

    Args:
        predict: function from anchor indices (B, S) to logits (B, S) and deltas (B, S, 4), float32.
        anchors: (A, 4) float32 of all levels, pixels.
        targets: ground truth of the batch.
        seeds: one per image, for sampling.
        settings: IoU thresholds and number of samples.
        coder: box coder of the deltas.
        smooth_l1_beta: where the box loss turns from quadratic to linear; 0 is plain L1.
        eligible: (B, A) bool, anchors that may be sampled; None for all.

    Returns:
        rpn_objectness and rpn_box; the count of both is the number of sampled anchors.
    """
    with torch.no_grad():
        thresholds = settings.positive_iou, settings.negative_iou
        matches = match_to_targets(anchors[None], targets, *thresholds, allow_low_quality=True)
        match_labels = matches.labels
        if eligible is not None:
            match_labels = torch.where(eligible, match_labels, IGNORED)
        samples = sample_candidates(
            match_labels,
            settings.samples_per_image,
            settings.positive_fraction,
            seeds,
            ANCHORS,
        )
        # Positives are always in the leading slots.
        positive = samples.indices[:, : samples.max_positives]
        is_positive = samples.is_positive[:, : samples.max_positives]
        references = anchors[positive]
        matched = targets.boxes[matches.gt_indices.gather(1, positive)]
        # In padding the anchor itself is the target, which gives zeros instead of log(0).
        target_boxes = torch.where(is_positive[..., None], matched, references)
        target_deltas = coder.encode(target_boxes, references)
    logits, deltas = predict(samples.indices)
    box_loss = F.smooth_l1_loss(
        deltas[:, : samples.max_positives], target_deltas, beta=smooth_l1_beta, reduction="none"
    ).sum(-1)
    # Binary cross-entropy is softplus(-logit) for a positive and softplus(logit) for a negative.
    objectness_loss = F.softplus(torch.where(samples.is_positive, -logits, logits))
    valid = samples.valid
    count = valid.sum()
    return {
        "rpn_objectness": LossTerm((objectness_loss * valid).sum(), count),
        "rpn_box": LossTerm((box_loss * is_positive).sum(), count),
    }
