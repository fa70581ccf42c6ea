"""Our operators for the ONNX exporter: decomposed into torch operators, or translated to ONNX.

Shapes as in ``model.structures``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import Tensor

from ops_cuda.decode_proposals import decode_proposals_reference
from ops_cuda.deform_columns import deform_columns_reference
from ops_cuda.roi_align_reference import pyramid_levels

OPSET = 18
_OURS = torch.ops.ops_cuda
# ONNX's NonMaxSuppression ignores boxes below this score: only those at -inf.
_LOWEST_SCORE = float(torch.finfo(torch.float32).min)


def _stable_topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    # ONNX's TopK orders equal scores by index, as our operator does.
    values, indices = scores.topk(min(count, scores.shape[1]), dim=1)
    return values, indices


def _grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, ranked: bool
) -> tuple[Tensor, Tensor]:
    groups, size = scores.shape
    group = torch.arange(groups, device=scores.device)[:, None].expand(groups, size)
    survives: Tensor = _OURS.batched_nms_mask(
        boxes.flatten(0, 1), scores.flatten(), group.flatten(), iou_threshold
    )
    survives = survives.view(groups, size) & (scores > -torch.inf)
    kept = _stable_topk(torch.where(survives, scores, -torch.inf), max_kept)[1]
    counts = survives.sum(1).clamp(max=max_kept)
    rank = torch.arange(kept.shape[1], device=kept.device)
    return torch.where(rank < counts[:, None], kept, 0), counts


def _pool_by_level(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_side: float,
    canonical_level: int,
    far_corner_inset: float,
) -> Tensor:
    """Pool the ROIs of each level with the same operator on that level alone, and reorder."""
    if len(scales) == 1 and far_corner_inset == 0:
        # Leaves the operator in the program, for `_roi_align` to translate.
        return NotImplemented  # type: ignore[no-any-return]
    inset_rois = torch.cat((rois[:, :3], rois[:, 3:] - far_corner_inset), dim=1)
    settings = (output_side, sampling_ratio, aligned, canonical_side, canonical_level, 0.0)
    if len(scales) == 1:
        single: Tensor = _OURS.multiscale_roi_align(features, inset_rois, scales, *settings)
        return single
    levels = pyramid_levels(rois, scales, canonical_side, canonical_level)
    members = [(levels == level).nonzero().squeeze(1) for level in range(len(scales))]
    pooled = [
        _OURS.multiscale_roi_align([feature], inset_rois[on_level], [scale], *settings)
        for feature, on_level, scale in zip(features, members, scales, strict=True)
    ]
    return torch.cat(pooled)[torch.cat(members).argsort()]


def _roi_align(
    features: Sequence[Any],
    rois: Any,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_side: float,
    canonical_level: int,
    far_corner_inset: float,
) -> Any:
    """Translate ROI align of one level with no inset; our ``aligned`` is ONNX's half_pixel."""
    images = op.Gather(rois, op.Constant(value_int=0), axis=1)
    return op.RoiAlign(
        features[0],
        op.Slice(rois, _one_element(1), _one_element(5), _one_element(1)),
        op.Cast(images, to=7),  # int64
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        output_height=output_side,
        output_width=output_side,
        sampling_ratio=sampling_ratio,
        spatial_scale=scales[0],
    )


def _batched_nms_mask(boxes: Any, scores: Any, classes: Any, iou_threshold: float) -> Any:
    """Translate to NonMaxSuppression with scores per class, -inf for boxes of other classes."""
    # An appended 0 gives an empty list of classes a maximum.
    largest = op.ReduceMax(op.Concat(classes, _one_element(0), axis=0), keepdims=0)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    labels = op.Range(zero, op.Add(largest, one), one)
    is_of_class = op.Equal(
        op.Unsqueeze(labels, _one_element(1)), op.Unsqueeze(classes, _one_element(0))
    )
    per_class = op.Where(is_of_class, scores, op.Constant(value_float=-float("inf")))
    selected = op.NonMaxSuppression(
        op.Unsqueeze(boxes, _one_element(0)),
        op.Unsqueeze(per_class, _one_element(0)),
        op.Size(scores),
        op.Constant(value_float=iou_threshold),
        op.Constant(value_float=_LOWEST_SCORE),
    )  # rows of image, class, box
    survivors = op.Slice(selected, _one_element(2), _one_element(3), _one_element(1))
    zeros = op.ConstantOfShape(op.Shape(scores))
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(survivors, end=1))
    return op.Cast(op.ScatterND(zeros, survivors, ones), to=9)  # bool


def _stable_sort(
    values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """Translate to TopK of all values, which by definition keeps equal values in order."""
    size = op.Gather(op.Shape(values), _one_element(dim))
    if values.dtype.is_floating_point() or len(values.shape) != 1:
        return op.TopK(values, size, axis=dim, largest=int(descending))
    # OpenVINO's TopK does not keep them in order; few scores are equal, but many integers.
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    positions = op.Range(zero, op.Squeeze(size), one)
    keys = op.Mul(values, size)
    keys = op.Sub(keys, positions) if descending else op.Add(keys, positions)
    _, order = op.TopK(keys, size, axis=0, largest=int(descending))
    return op.Gather(values, order), order


def _one_element(value: int) -> Any:
    return op.Constant(value_ints=[value])


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _OURS.stable_topk.default: _stable_topk,
    _OURS.decode_proposals.default: decode_proposals_reference,
    _OURS.grouped_nms.default: _grouped_nms,
    _OURS.multiscale_roi_align.default: _pool_by_level,
    _OURS.deform_columns.default: deform_columns_reference,
}
"""Operators, and how to compute them with torch's and the operators of ``TRANSLATIONS``."""

TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    _OURS.multiscale_roi_align.default: _roi_align,
    _OURS.batched_nms_mask.default: _batched_nms_mask,
    torch.ops.aten.sort.stable: _stable_sort,
}
"""Operators, and how to compute them with those of ONNX."""
