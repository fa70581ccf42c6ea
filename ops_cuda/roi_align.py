"""ROI align over a feature pyramid, in one call.

Shapes: B images, R ROIs, C channels, L levels, S output side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ops_cuda.checks import (
    require_one_device,
    require_positive,
    require_pyramid,
    require_rows,
)
from ops_cuda.library import compiled_for, lacks_type
from ops_cuda.registration import register_autograd, register_fake, result_layout
from ops_cuda.roi_align_reference import multiscale_roi_align_reference


def multiscale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
    canonical_side: float = 224.0,
    canonical_level: int = 4,
    far_corner_inset: float = 0.0,
) -> Tensor:
    """Pool each ROI from the pyramid level that fits its size, resampled to a square.

    Args:
        features: L maps (B, C, H_l, W_l) of one floating type, finest first; channels_last is the
            fast layout.
        rois: (R, 5) float: image index, x1 y1 x2 y2 in image pixels.
        scales: L map pixels per image pixel: consecutive powers of two, or a single one.
        output_side: S, bins per axis.
        sampling_ratio: samples per bin and axis; 0 takes ceil(ROI side / S), at most 1,024.
        aligned: shift by half a pixel (detectron2); False is the older convention, with ROIs at
            least one map pixel wide (torchvision's detectors).
        canonical_side: side of a ROI that is pooled from ``canonical_level``, pixels.
        canonical_level: that level; level k has scale 2 ** -k.
        far_corner_inset: after the level is assigned, x2 and y2 are moved inward by this many image
            pixels (Detectron: 1).

    Returns:
        (R, C, S, S) in the type and memory layout of the features. Samples outside the map and
        samples of a ROI with NaN are zero. Gradients flow to the features only; on the CPU they are
        the same bits for any number of threads, on CUDA their last bits may vary (atomic sums).

    Raises:
        ValueError: shapes, types, devices or scales are not as above.
        RuntimeError: an image index is outside the batch (CPU; on CUDA that ROI is zero).

    Source: He et al. 2017, section 3; level assignment: Lin et al. 2017, equation 1.
    """
    _check(features, rois, scales, output_side, sampling_ratio)
    dtype = features[0].dtype
    rois = rois.detach().to(torch.promote_types(dtype, torch.float32))
    options = (
        output_side,
        sampling_ratio,
        aligned,
        canonical_side,
        canonical_level,
        far_corner_inset,
    )
    if not compiled_for("multiscale_roi_align", rois.device):
        return multiscale_roi_align_reference(features, rois, scales, *options)
    if lacks_type(features[0]):
        features = [feature.float() for feature in features]
    pooled: Tensor = torch.ops.ops_cuda.multiscale_roi_align(
        list(features), rois, list(scales), *options
    )
    return pooled.to(dtype)


def _check(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int,
) -> None:
    require_rows("rois", rois, 5)
    require_pyramid(scales)
    require_positive("output_side", output_side)
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must be 0 (adaptive) or a count; got {sampling_ratio}")
    if len(features) != len(scales):
        raise ValueError(f"{len(features)} features but {len(scales)} scales: one per level")
    first = features[0]
    for level, feature in enumerate(features):
        if feature.ndim != 4 or not feature.is_floating_point() or 0 in feature.shape[2:]:
            raise ValueError(
                f"features[{level}] must be (B, C, H, W), floating point and not empty; "
                f"got {tuple(feature.shape)} {feature.dtype}"
            )
        if feature.shape[:2] != first.shape[:2] or feature.dtype != first.dtype:
            raise ValueError(
                f"features must agree on B, C and type: level 0 is {tuple(first.shape)} "
                f"{first.dtype}, level {level} is {tuple(feature.shape)} {feature.dtype}"
            )
        require_one_device(rois=rois, **{f"features[{level}]": feature})


@register_fake("multiscale_roi_align")
def _multiscale_roi_align_fake(
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
    first = features[0]
    shape = (rois.shape[0], first.shape[1], output_side, output_side)
    return torch.empty(
        shape, dtype=first.dtype, device=first.device, memory_format=result_layout(first)
    )


@register_fake("multiscale_roi_align_backward")
def _multiscale_roi_align_backward_fake(
    gradient: Tensor, features: Sequence[Tensor], rois: Tensor, *options: Any
) -> list[Tensor]:
    return [torch.empty_like(feature, memory_format=result_layout(feature)) for feature in features]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, *ctx.options = inputs
    # The backbone's layers keep these maps anyway; here they give shape, type and layout.
    ctx.save_for_backward(rois, *features)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    rois, *features = ctx.saved_tensors
    gradients = torch.ops.ops_cuda.multiscale_roi_align_backward(
        gradient, features, rois, *ctx.options
    )
    return (gradients, None, *(None for _ in ctx.options))


# No autocast rule: the maps are read in their own type and summed in float32.
register_autograd("multiscale_roi_align", _backward, _setup_context)
