"""The losses of RetinaNet. Shapes as in ``model.structures``.

Anchors between the two IoU thresholds are ignored; all others have a loss.
Source: Lin et al. 2017, "Focal loss for dense object detection", section 4.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.coding import BoxCoder
from model.boxes.matching import match_to_targets
from model.config import RetinaNetConfig
from model.layers.focal_loss import focal_loss
from model.structures import BatchTargets, LossTerm
from ops_cuda import POSITIVE

# Avoids a division by zero, square pixels.
MIN_AREA = 1e-7


def retinanet_losses(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    targets: BatchTargets,
    settings: RetinaNetConfig,
    coder: BoxCoder,
    class_weights: Tensor | None = None,
) -> dict[str, LossTerm]:
    """Return the focal loss of all anchors and the box loss of the positive ones.

    Args:
        logits: per level (B, A_l, K).
        deltas: per level (B, A_l, 4) float32.
        anchors: per level (A_l, 4) float32, pixels.
        targets: ground truth of the batch.
        settings: IoU thresholds and loss weights.
        coder: box coder of the deltas.
        class_weights: (K + 1,) weight of each label, the background first; None if all are alike.

    Returns:
        retinanet_class and retinanet_box; the count of both is the number of positive anchors.
    """
    all_anchors = torch.cat(list(anchors))
    thresholds = settings.positive_iou, settings.negative_iou
    matches = match_to_targets(all_anchors[None], targets, *thresholds, allow_low_quality=True)
    is_positive = matches.labels == POSITIVE
    # The match labels of other anchors are also labels of the focal loss: 0 background, -1 ignored.
    labels = torch.where(is_positive, targets.labels[matches.gt_indices], matches.labels)
    per_level = torch.split(labels, [len(level) for level in anchors], dim=1)
    class_losses = [
        focal_loss(level, label, settings.focal_alpha, settings.focal_gamma, class_weights)
        for level, label in zip(logits, per_level, strict=True)
    ]
    # Other anchors get zero deltas and themselves as the target: no loss, and no gradient.
    predicted = torch.where(is_positive[..., None], torch.cat(list(deltas), dim=1), 0.0)
    matched = targets.boxes[matches.gt_indices]
    target_boxes = torch.where(is_positive[..., None], matched, all_anchors)
    if settings.box_loss == "giou":
        boxes = coder.decode(predicted, all_anchors)
        box_loss = generalized_iou_loss(boxes, target_boxes) * is_positive
    else:
        target_deltas = coder.encode(target_boxes, all_anchors)
        box_loss = F.smooth_l1_loss(
            predicted, target_deltas, beta=settings.smooth_l1_beta, reduction="none"
        )
    count = is_positive.sum()
    return {
        "retinanet_class": LossTerm(torch.stack(class_losses).sum(), count),
        "retinanet_box": LossTerm(box_loss.sum() * settings.box_loss_weight, count),
    }


def generalized_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """Return 1 - GIoU of pairs of boxes.

    GIoU is the IoU minus the share of the enclosing box that neither box covers.

    Args:
        boxes: (..., 4), pixels.
        others: (..., 4), pixels.

    Returns:
        (...), between 0 (equal boxes) and 2 (far apart).

    Source: Rezatofighi et al. 2019, algorithm 1.
    """
    start, end = torch.split(boxes, 2, dim=-1)
    other_start, other_end = torch.split(others, 2, dim=-1)
    overlap = _area(torch.maximum(start, other_start), torch.minimum(end, other_end))
    enclosing = _area(torch.minimum(start, other_start), torch.maximum(end, other_end))
    union = _area(start, end) + _area(other_start, other_end) - overlap
    return 1 - overlap / (union + MIN_AREA) + (enclosing - union) / (enclosing + MIN_AREA)


def _area(start: Tensor, end: Tensor) -> Tensor:
    """Return the area between corners (..., 2); 0 unless ``end`` exceeds ``start`` on both axes."""
    return (end - start).clamp(min=0).prod(dim=-1)
