"""From the logits and deltas of a pyramid's anchors to the proposals of each image.

Shapes: B images, L levels, A anchors of a level, K candidates of a level, P proposals of an image.
All of them follow from the arguments' shapes: nothing waits for the device, and a CUDA graph can
hold it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import require_fraction, require_one_device, require_positive, require_rows
from ops_cuda.grouped_nms import grouped_nms


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best scores of each row.

    Args:
        scores: (B, N) float; equal scores rank by index, NaN ranks first.
        count: how many are wanted.

    Returns:
        Scores (B, K) float32, best first, and their indices (B, K) int64, K = min(N, count).

    Raises:
        ValueError: shape, type or count are not as above.
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(
            f"scores must be (B, N), floating point; got {tuple(scores.shape)} {scores.dtype}"
        )
    if count < 0:
        raise ValueError(f"count must not be negative; got {count}")
    scores = scores.detach().float()
    if not library.compiled_for("top_scores", scores.device):
        return reference.top_scores(scores, count)
    values: Tensor
    indices: Tensor
    values, indices = torch.ops.ops_cuda.top_scores(scores, count)
    return values, indices


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
    """The boxes of chosen anchors, cut to their images.

    Args:
        scores: per level (B, K_l) float, of the chosen anchors.
        indices: per level (B, K_l) int64, which they are.
        deltas: per level (B, A_l, 4) float: dx, dy, dw, dh of all anchors.
        anchors: per level (A_l, 4) float, x1 y1 x2 y2, pixels.
        limits: (B, 4) float: width, height, width, height of each image, pixels.
        min_side: thinner boxes are dropped, pixels.
        largest_log_scale: dw and dh count up to this.
        kept_side: a box beyond the border keeps this many pixels of the image (Detectron: 1).

    Returns:
        Boxes (B, L, K, 4) and scores (B, L, K) float32, K = max K_l. Where a level has fewer
        candidates, a box is dropped, or a box or score is no number, the score is -inf and the
        box zeros.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: an index is out of range (CPU; on CUDA its box is dropped).

    Source: Girshick et al. 2014, appendix C.
    """
    _check_levels(scores, deltas, anchors, limits)
    if len(indices) != len(scores):
        raise ValueError(f"{len(scores)} levels of scores but {len(indices)} of indices")
    for level, (score, index) in enumerate(zip(scores, indices, strict=True)):
        if index.shape != score.shape or index.dtype != torch.int64:
            raise ValueError(
                f"indices[{level}] must be {tuple(score.shape)} int64; "
                f"got {tuple(index.shape)} {index.dtype}"
            )
        require_one_device(scores=score, indices=index)
    arguments = (
        [level.detach().float() for level in scores],
        list(indices),
        [level.detach().float() for level in deltas],
        [level.detach().float() for level in anchors],
        limits.float(),
        min_side,
        largest_log_scale,
        kept_side,
    )
    if not library.compiled_for("decode_proposals", limits.device):
        return reference.decode_proposals(*arguments)
    boxes: Tensor
    decoded: Tensor
    boxes, decoded = torch.ops.ops_cuda.decode_proposals(*arguments)
    return boxes, decoded


def select_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    pre_nms: int,
    post_nms: int,
    iou_threshold: float,
    min_side: float,
    largest_log_scale: float,
    kept_side: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes of each level of each image that no better one of the level overlaps.

    Args:
        logits: per level (B, A_l) float, how much each anchor looks like an object.
        deltas: per level (B, A_l, 4) float: dx, dy, dw, dh of each anchor.
        anchors: per level (A_l, 4) float, x1 y1 x2 y2, pixels.
        limits: (B, 4) float: width, height, width, height of each image, pixels.
        pre_nms: anchors of a level that are looked at, best first.
        post_nms: proposals of an image, at most.
        iou_threshold: overlap above which the lower score is dropped, in [0, 1].
        min_side: thinner boxes are dropped, pixels.
        largest_log_scale: dw and dh count up to this.
        kept_side: a box beyond the border keeps this many pixels of the image (Detectron: 1).

    Returns:
        Boxes (B, P, 4) float32, best first, and their logits (B, P) float32, both zero after an
        image's last; and the number of proposals of each image, (B,) int64. P is ``post_nms``, or
        the number of candidates if that is smaller. Equal logits rank by level, then by anchor.

    Raises:
        ValueError: shapes, types, devices or numbers are not as above.

    Source: Ren et al. 2015, section 3.1; per level, Lin et al. 2017, section 4.1.
    """
    _check_levels(logits, deltas, anchors, limits)
    require_positive("pre_nms", pre_nms)
    require_positive("post_nms", post_nms)
    require_fraction("iou_threshold", iou_threshold)
    best = [top_scores(level, pre_nms) for level in logits]
    boxes, scores = decode_proposals(
        [level[0] for level in best],
        [level[1] for level in best],
        deltas,
        anchors,
        limits,
        min_side,
        largest_log_scale,
        kept_side,
    )
    images, levels, candidates = scores.shape
    kept, counts = grouped_nms(
        boxes.flatten(0, 1), scores.flatten(0, 1), iou_threshold, post_nms, ranked=True
    )
    rank = torch.arange(kept.shape[1], device=kept.device)
    kept_scores = torch.where(
        rank < counts[:, None], scores.flatten(0, 1).gather(1, kept), -torch.inf
    )
    proposals = min(post_nms, sum(level[0].shape[1] for level in best))
    # Levels stand one after the other, each best first: a stable choice ranks ties by level.
    # No -1 among the sizes: it is ambiguous where there are no images.
    per_level = kept.shape[1]
    chosen_scores, chosen = top_scores(kept_scores.view(images, levels * per_level), proposals)
    first = torch.arange(levels, device=kept.device)[:, None] * candidates
    column = (kept.view(images, levels, per_level) + first).flatten(1).gather(1, chosen)
    chosen_boxes = boxes.flatten(1, 2).gather(1, column[..., None].expand(-1, -1, 4))
    present = chosen_scores > -torch.inf
    return (
        torch.where(present[..., None], chosen_boxes, 0.0),
        torch.where(present, chosen_scores, 0.0),
        present.sum(dim=1),
    )


def _check_levels(
    scores: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], limits: Tensor
) -> None:
    """``scores`` are of all anchors or of some."""
    require_rows("limits", limits, 4)
    if not scores or not len(scores) == len(deltas) == len(anchors):
        raise ValueError(
            f"scores, deltas and anchors must have one tensor per level; got {len(scores)}, "
            f"{len(deltas)} and {len(anchors)}"
        )
    images = len(limits)
    for level, (score, delta, anchor) in enumerate(zip(scores, deltas, anchors, strict=True)):
        require_rows(f"anchors[{level}]", anchor, 4)
        if score.ndim != 2 or len(score) != images or not score.is_floating_point():
            raise ValueError(
                f"level {level} needs floating scores of {images} images; "
                f"got {tuple(score.shape)} {score.dtype}"
            )
        if delta.shape != (images, anchor.shape[0], 4) or not delta.is_floating_point():
            raise ValueError(
                f"deltas[{level}] must be {(images, anchor.shape[0], 4)}, floating point; "
                f"got {tuple(delta.shape)} {delta.dtype}"
            )
        require_one_device(limits=limits, scores=score, deltas=delta, anchors=anchor)
