"""Proposal boxes from anchors and their regression deltas.

Shapes: B images, L levels, A_l anchors of level l, N_l of them selected.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.checks import require_one_device, require_rows
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake


def decode_proposals(
    scores: Sequence[Tensor],
    indices: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    min_side: float,
    max_log_scale: float,
    min_clipped_side: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Decode the boxes of selected anchors and clip them to their images.

    Args:
        scores: per level (B, N_l) float, of the selected anchors.
        indices: per level (B, N_l) int64, of the selected anchors.
        deltas: per level (B, A_l, 4) float: dx, dy, dw, dh of all anchors.
        anchors: per level (A_l, 4) float, x1 y1 x2 y2, pixels.
        limits: (B, 4) float: width, height, width, height of each image, pixels.
        min_side: boxes with a shorter side are dropped, pixels.
        max_log_scale: upper bound of dw and dh.
        min_clipped_side: a box beyond the image border is clipped to a strip of this width inside
            the image, pixels (Detectron: 1).

    Returns:
        boxes: (B, L, N, 4) float32, N = max N_l.
        scores: (B, L, N) float32.
        Score -inf and a box of zeros mark padding, dropped boxes, and boxes or scores with a NaN.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: an index is out of range (CPU; on CUDA its box is dropped).

    Source: Girshick et al. 2014, appendix C.
    """
    require_levels(scores, deltas, anchors, limits)
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
        max_log_scale,
        min_clipped_side,
    )
    if not compiled_for("decode_proposals", limits.device):
        return decode_proposals_reference(*arguments)
    boxes: Tensor
    decoded_scores: Tensor
    boxes, decoded_scores = torch.ops.ops_cuda.decode_proposals(*arguments)
    return boxes, decoded_scores


def require_levels(
    scores: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], limits: Tensor
) -> None:
    """Raise ValueError unless each level has deltas of all anchors, and scores of all or some."""
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
                f"level {level} needs floating-point scores of {images} images; "
                f"got {tuple(score.shape)} {score.dtype}"
            )
        if delta.shape != (images, anchor.shape[0], 4) or not delta.is_floating_point():
            raise ValueError(
                f"deltas[{level}] must be {(images, anchor.shape[0], 4)}, floating point; "
                f"got {tuple(delta.shape)} {delta.dtype}"
            )
        require_one_device(limits=limits, scores=score, deltas=delta, anchors=anchor)


@register_fake("decode_proposals")
def _decode_proposals_fake(
    scores: Sequence[Tensor],
    indices: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    min_side: float,
    max_log_scale: float,
    min_clipped_side: float,
) -> tuple[Tensor, Tensor]:
    shape = (limits.shape[0], len(scores), max(level.shape[1] for level in scores))
    return limits.new_empty(*shape, 4), limits.new_empty(shape)


register_autocast_to_float32("decode_proposals")


def decode_proposals_reference(
    scores: Sequence[Tensor],
    indices: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    min_side: float,
    max_log_scale: float,
    min_clipped_side: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Decode level by level, padding each level to the longest."""
    upper = torch.cat((limits[:, :2] - min_clipped_side, limits[:, 2:]), dim=1)[:, None]
    longest = max(level.shape[1] for level in scores)
    all_boxes, all_scores = [], []
    for score, index, delta, anchor in zip(scores, indices, deltas, anchors, strict=True):
        selected, reference = delta.gather(1, index[..., None].expand(-1, -1, 4)), anchor[index]
        side = reference[..., 2:] - reference[..., :2]
        center = selected[..., :2] * side + (reference[..., :2] + 0.5 * side)
        half = 0.5 * selected[..., 2:].clamp(max=max_log_scale).exp() * side
        near, far = (center - half).clamp(min=0), (center + half).clamp(min=min_clipped_side)
        boxes = torch.cat((near, far), dim=-1)
        boxes = torch.minimum(boxes, upper)
        valid = ((boxes[..., 2:] - boxes[..., :2]) >= min_side).all(dim=-1) & ~score.isnan()
        padding = longest - score.shape[1]
        all_boxes.append(F.pad(torch.where(valid[..., None], boxes, 0.0), (0, 0, 0, padding)))
        all_scores.append(
            F.pad(torch.where(valid, score, -torch.inf), (0, padding), value=-torch.inf)
        )
    return torch.stack(all_boxes, 1), torch.stack(all_scores, 1)
