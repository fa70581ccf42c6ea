"""ROI align over a feature pyramid, in one call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import (
    require_one_device,
    require_positive,
    require_pyramid,
    require_rows,
)


def multiscale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
    canonical_side: float = 224.0,
    canonical_level: int = 4,
    trim: float = 0.0,
) -> Tensor:
    """Crop each roi from the pyramid level that suits its size, resampled to a square.

    Args:
        features: L maps (B, C, Hl, Wl) of one floating type, finest first; channels_last is the
            fast layout.
        rois: (R, 5) float: image index, x1 y1 x2 y2 in image pixels.
        scales: L map pixels per image pixel: consecutive powers of two, or one alone.
        output_side: S, bins per axis.
        sampling_ratio: samples per bin and axis; 0 takes ceil(roi side / S), at most 1,024.
        aligned: shift by half a pixel (detectron2); False is the older rule, rois at least one
            map pixel wide (torchvision's detectors).
        canonical_side: side of a roi that reads ``canonical_level``, pixels.
        canonical_level: that level; level k has scale 2 ** -k.
        trim: x2 and y2 move in by this many image pixels once the level is chosen (Detectron: 1).

    Returns:
        (R, C, S, S) in the type and memory layout of the features. Samples outside the map and
        samples of a roi with NaN are zero. Gradients flow to the features only; on the CPU they are
        the same bits for any number of threads, on CUDA their last bits may vary (atomic sums).

    Raises:
        ValueError: shapes, types, devices or scales are not as above.
        RuntimeError: an image index is outside the batch (CPU; on CUDA that roi is zero).

    Source: He et al. 2017, section 3; level choice: Lin et al. 2017, equation 1.
    """
    _check(features, rois, scales, output_side, sampling_ratio)
    dtype = features[0].dtype
    rois = rois.detach().to(torch.promote_types(dtype, torch.float32))
    shape = (output_side, sampling_ratio, aligned, canonical_side, canonical_level, trim)
    if not library.compiled_for("multiscale_roi_align", rois.device):
        return reference.multiscale_roi_align(features, rois, scales, *shape)
    if rois.device.type == "cpu" and dtype in (torch.float16, torch.bfloat16):
        features = [feature.float() for feature in features]
    pooled: Tensor = torch.ops.ops_cuda.multiscale_roi_align(
        list(features), rois, list(scales), *shape
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
