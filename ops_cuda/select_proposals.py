"""Proposals of each image from the logits and deltas of a feature pyramid's anchors.

Shapes: B images, A_l anchors of level l, N candidates of a level, P proposals of an image. The
shapes of the arguments determine them all, so nothing needs a device sync, and a CUDA graph can
capture it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ops_cuda.checks import require_fraction, require_positive
from ops_cuda.decode_proposals import decode_proposals, require_levels
from ops_cuda.grouped_nms import grouped_nms
from ops_cuda.stable_topk import stable_topk


def select_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    pre_nms: int,
    post_nms: int,
    iou_threshold: float,
    min_side: float,
    max_log_scale: float,
    min_clipped_side: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode the highest-scoring anchors of each level and image, and suppress within each level.

    Args:
        logits: per level (B, A_l) float, objectness.
        deltas: per level (B, A_l, 4) float: dx, dy, dw, dh of each anchor.
        anchors: per level (A_l, 4) float, x1 y1 x2 y2, pixels.
        limits: (B, 4) float: width, height, width, height of each image, pixels.
        pre_nms: anchors of each level that enter NMS, highest logits first.
        post_nms: maximum number of proposals per image.
        iou_threshold: IoU above which the box of lower score is suppressed, in [0, 1].
        min_side: boxes with a shorter side are dropped, pixels.
        max_log_scale: upper bound of dw and dh.
        min_clipped_side: a box beyond the image border is clipped to a strip of this width inside
            the image, pixels (Detectron: 1).

    Returns:
        boxes: (B, P, 4) float32, highest logit first; P is ``post_nms``, or the number of
            candidates if that is smaller. Equal logits rank by level, then by anchor.
        logits: (B, P) float32.
        counts: (B,) int64, number of proposals of each image; the rest is padding with zeros.

    Raises:
        ValueError: shapes, types, devices or numbers are not as above.

    Source: Ren et al. 2015, section 3.1; per level, Lin et al. 2017, section 4.1.
    """
    require_levels(logits, deltas, anchors, limits)
    require_positive("pre_nms", pre_nms)
    require_positive("post_nms", post_nms)
    require_fraction("iou_threshold", iou_threshold)
    top = [stable_topk(level, pre_nms) for level in logits]
    boxes, scores = decode_proposals(
        [values for values, _ in top],
        [indices for _, indices in top],
        deltas,
        anchors,
        limits,
        min_side,
        max_log_scale,
        min_clipped_side,
    )
    images, levels, candidates = scores.shape
    kept, counts = grouped_nms(
        boxes.flatten(0, 1), scores.flatten(0, 1), iou_threshold, post_nms, presorted=True
    )
    rank = torch.arange(kept.shape[1], device=kept.device)
    kept_scores = torch.where(
        rank < counts[:, None], scores.flatten(0, 1).gather(1, kept), -torch.inf
    )
    proposals = min(post_nms, sum(values.shape[1] for values, _ in top))
    # Levels follow each other, each in descending order, so a stable top-k ranks ties by level.
    # No -1 among the sizes: it is ambiguous for an empty batch.
    per_level = kept.shape[1]
    top_scores, slots = stable_topk(kept_scores.view(images, levels * per_level), proposals)
    first = torch.arange(levels, device=kept.device)[:, None] * candidates
    candidate = (kept.view(images, levels, per_level) + first).flatten(1).gather(1, slots)
    top_boxes = boxes.flatten(1, 2).gather(1, candidate[..., None].expand(-1, -1, 4))
    valid = top_scores > -torch.inf
    return (
        torch.where(valid[..., None], top_boxes, 0.0),
        torch.where(valid, top_scores, 0.0),
        valid.sum(dim=1),
    )
