"""What RetinaNet learns from: every anchor but those that overlap an object only so so.

Shapes: B images, L levels, A anchors of an image on all levels, K classes.
Source: Lin et al. 2017, "Focal loss for dense object detection", section 4.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.coding import BoxCoder
from model.boxes.matching import match_to_objects
from model.config import RetinaNetConfig
from model.layers.focal_loss import focal_loss
from model.structures import LossTerm
from model.structures.batch_targets import BatchTruths
from ops_cuda import POSITIVE

# Keeps the quotients of two areas finite, square pixels.
SMALLEST_AREA = 1e-7


def retinanet_losses(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    truths: BatchTruths,
    settings: RetinaNetConfig,
    coder: BoxCoder,
) -> dict[str, LossTerm]:
    """Focal loss of all anchors, and the box loss of the positive ones.

    Args:
        logits: per level (B, A_l, K).
        deltas: per level (B, A_l, 4) float32.
        anchors: per level (A_l, 4) float32, pixels.
        truths: the objects of the B images.
        settings: thresholds and weights.
        coder: of the deltas.

    Returns:
        retinanet_class and retinanet_box, both counted over the positive anchors.
    """
    everywhere = torch.cat(list(anchors))
    matches = match_to_objects(
        everywhere[None], truths, settings.positive_iou, settings.negative_iou, keep_best=True
    )
    is_positive = matches.verdict == POSITIVE
    truth = matches.truth + truths.first[:, None]
    # The verdict on others is what the focal loss calls them: 0 background, -1 ignored.
    labels = torch.where(is_positive, truths.labels[truth], matches.verdict)
    per_level = torch.split(labels, [len(level) for level in anchors], dim=1)
    surprise = [
        focal_loss(level, label, settings.focal_alpha, settings.focal_gamma)
        for level, label in zip(logits, per_level, strict=True)
    ]
    # Anchors that are not positive are meant to stay where they are, and do: they lose nothing.
    predicted = torch.where(is_positive[..., None], torch.cat(list(deltas), dim=1), 0.0)
    wanted = torch.where(is_positive[..., None], truths.boxes[truth], everywhere)
    if settings.box_loss == "giou":
        distance = generalized_iou_loss(coder.decode(predicted, everywhere), wanted) * is_positive
    else:
        distance = F.smooth_l1_loss(
            predicted,
            coder.encode(wanted, everywhere),
            beta=settings.smooth_l1_beta,
            reduction="none",
        )
    count = is_positive.sum()
    return {
        "retinanet_class": LossTerm(torch.stack(surprise).sum(), count),
        "retinanet_box": LossTerm(distance.sum() * settings.box_loss_weight, count),
    }


def generalized_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """1 - IoU, and what of the smallest box around both neither covers, as a share of it.

    Args:
        boxes: (..., 4), pixels.
        others: (..., 4), pixels.

    Returns:
        (...), from 0 where the boxes are the same to 2 where they are far apart.

    Source: Rezatofighi et al. 2019, algorithm 1.
    """
    start, end = torch.split(boxes, 2, dim=-1)
    other_start, other_end = torch.split(others, 2, dim=-1)
    shared = _area(torch.maximum(start, other_start), torch.minimum(end, other_end))
    around = _area(torch.minimum(start, other_start), torch.maximum(end, other_end))
    union = _area(start, end) + _area(other_start, other_end) - shared
    return 1 - shared / (union + SMALLEST_AREA) + (around - union) / (around + SMALLEST_AREA)


def _area(start: Tensor, end: Tensor) -> Tensor:
    """The area between corners (..., 2), 0 where they are the wrong way round."""
    return (end - start).clamp(min=0).prod(dim=-1)
