"""What torch must know about the compiled operators: output shapes, and the gradient.

The fake kernels make the operators traceable by torch.compile and torch.export.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "ops_cuda"


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)


def _batched_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    return _nms(boxes, scores, iou_threshold, max_kept)


def _surviving_boxes(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


def _grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int, ranked: bool
) -> tuple[Tensor, Tensor]:
    groups, size = scores.shape
    kept = boxes.new_empty(groups, min(size, max_kept), dtype=torch.int64)
    return kept, boxes.new_empty(groups, dtype=torch.int64)


def _top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values = scores.new_empty(scores.shape[0], min(count, scores.shape[1]))
    return values, torch.empty_like(values, dtype=torch.int64)


def _decode_proposals(
    scores: Sequence[Tensor],
    indices: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    limits: Tensor,
    min_side: float,
    largest_log_scale: float,
    kept_side: float = 0.0,
) -> tuple[Tensor, Tensor]:
    shape = (limits.shape[0], len(scores), max(level.shape[1] for level in scores))
    return limits.new_empty(*shape, 4), limits.new_empty(shape)


def _match_boxes(
    candidates: Tensor,
    truths: Tensor,
    truth_offsets: Tensor,
    positive_iou: float,
    negative_iou: float,
    keep_best: bool,
) -> tuple[Tensor, Tensor]:
    shape = (truth_offsets.shape[0] - 1, candidates.shape[1])
    return (
        candidates.new_empty(shape, dtype=torch.int64),
        candidates.new_empty(shape, dtype=torch.int64),
    )


def _layout(feature: Tensor) -> torch.memory_format:
    """The rule of the kernels (is_channels_last in csrc)."""
    channels_last = feature.stride(1) == 1 and feature.shape[1] > 1
    return torch.channels_last if channels_last else torch.contiguous_format


def _multiscale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_side: float,
    canonical_level: int,
    trim: float = 0.0,
) -> Tensor:
    shape = (rois.shape[0], features[0].shape[1], output_side, output_side)
    return torch.empty(
        shape,
        dtype=features[0].dtype,
        device=features[0].device,
        memory_format=_layout(features[0]),
    )


def _multiscale_roi_align_backward(
    gradient: Tensor, features: Sequence[Tensor], rois: Tensor, *options: Any
) -> list[Tensor]:
    return [torch.empty_like(map_, memory_format=_layout(map_)) for map_ in features]


def _rasterize_polygons(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], side, side)


def _rasterize_rle(
    run_ends: Tensor,
    run_offsets: Tensor,
    heights: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], side, side)


def _paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> Tensor:
    return masks.new_empty(masks.shape[0], height, width, dtype=torch.uint8)


def _pack_conv3x3(weight: Tensor) -> Tensor:
    outputs, inputs = weight.shape[:2]
    return weight.new_empty(36, (outputs + 31) // 32, inputs, 32)


def _conv3x3_relu(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    out_channels: int,
    relu: bool,
    vector_bytes: int = 64,
) -> Tensor:
    shape = (x.shape[0], out_channels, *x.shape[2:])
    return torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=torch.channels_last)


def _encode_roi_masks_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> tuple[Tensor, Tensor]:
    runs = torch.library.get_ctx().new_dynamic_size()
    return (
        masks.new_empty(runs, dtype=torch.int64),
        masks.new_empty(masks.shape[0] + 1, dtype=torch.int64),
    )


def _compress_rle(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    characters = torch.library.get_ctx().new_dynamic_size()
    return counts.new_empty(characters, dtype=torch.uint8), torch.empty_like(offsets)


def _deform_columns(
    x: Tensor, offsets: Tensor, modulation: Tensor | None, geometry: Sequence[int]
) -> Tensor:
    size, taps = offsets.shape[2:], geometry[0] * geometry[1]
    return x.new_empty(len(x), *size, taps, x.shape[1])


def _deform_columns_backward(
    gradient: Tensor,
    x: Tensor,
    offsets: Tensor,
    modulation: Tensor | None,
    geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        torch.empty_like(offsets, memory_format=torch.contiguous_format),
        offsets.new_empty(0)
        if modulation is None
        else torch.empty_like(modulation, memory_format=torch.contiguous_format),
    )


def _resize_image(pixels: Tensor, height: int, width: int) -> Tensor:
    return pixels.new_empty(height, width, 3)


def _preprocess(
    images: Sequence[Tensor],
    heights: Sequence[int],
    widths: Sequence[int],
    canvas_height: int,
    canvas_width: int,
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool,
    dtype: torch.dtype,
    antialias: bool = True,
) -> Tensor:
    return torch.empty(
        (len(images), 3, canvas_height, canvas_width),
        dtype=dtype,
        device=images[0].device,
        memory_format=torch.channels_last,
    )


def _keep_for_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, *ctx.options = inputs
    # the backbone's own layers keep these maps anyway; here they tell shape, type and layout
    ctx.save_for_backward(rois, *features)


def _roi_align_gradient(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    rois, *features = ctx.saved_tensors
    gradients = torch.ops.ops_cuda.multiscale_roi_align_backward(
        gradient, features, rois, *ctx.options
    )
    return (gradients, None, *(None for _ in ctx.options))


FAKES: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "batched_nms": _batched_nms,
    "surviving_boxes": _surviving_boxes,
    "grouped_nms": _grouped_nms,
    "top_scores": _top_scores,
    "decode_proposals": _decode_proposals,
    "match_boxes": _match_boxes,
    "multiscale_roi_align": _multiscale_roi_align,
    "multiscale_roi_align_backward": _multiscale_roi_align_backward,
    "rasterize_polygons": _rasterize_polygons,
    "rasterize_rle": _rasterize_rle,
    "paste_masks": _paste_masks,
    "encode_roi_masks_rle": _encode_roi_masks_rle,
    "compress_rle": _compress_rle,
    "deform_columns": _deform_columns,
    "deform_columns_backward": _deform_columns_backward,
    "resize_image": _resize_image,
    "preprocess": _preprocess,
    "pack_conv3x3": _pack_conv3x3,
    "conv3x3_relu": _conv3x3_relu,
}
"""Every compiled operator and what tells its output's shape."""

AUTOCAST_TO_FLOAT = (
    "nms",
    "batched_nms",
    "match_boxes",
    "rasterize_polygons",
    "rasterize_rle",
    "paste_masks",
    "encode_roi_masks_rle",
    "surviving_boxes",
    "grouped_nms",
    "top_scores",
    "decode_proposals",
    "pack_conv3x3",
    "conv3x3_relu",
)
"""Operators that compute in float32 whatever autocast says: half types lose whole pixels,
and Winograd's convolution has no half form.

ROI align takes its maps as they come and sums in float32 by itself.
"""


def register() -> None:
    """Register fake kernels, autocast rules and autograd; the schemas must be loaded."""
    for name, fake in FAKES.items():
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake)
    for name in AUTOCAST_TO_FLOAT:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"{NAMESPACE}::{name}", device, torch.float32)
    torch.library.register_autograd(
        f"{NAMESPACE}::multiscale_roi_align",
        _roi_align_gradient,
        setup_context=_keep_for_gradient,
    )
