"""Reference implementation of ROI align over a feature pyramid.

Shapes: B images, R ROIs, C channels, L levels, S output side, T samples per bin and axis.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVEL_EPSILON = 1e-6
_MAX_SAMPLES_PER_BIN = 1024
_MAX_BAG_ENTRIES = 1 << 25


def pyramid_levels(
    rois: Tensor, scales: Sequence[float], canonical_side: float, canonical_level: int
) -> Tensor:
    """Assign each ROI to a pyramid level.

    Args:
        rois: (R, 5) image index, x1 y1 x2 y2.
        scales: pixels of a level per image pixel, each half of the one before.
        canonical_side: side of a ROI that is pooled from ``canonical_level``, pixels.
        canonical_level: that level; level k has scale 2 ** -k.

    Returns:
        (R,) int64, indices into ``scales``; a ROI whose area is NaN gets the finest level.

    Source: Lin et al. 2017, equation 1; the epsilon is torchvision's.
    """
    finest = -round(math.log2(scales[0]))
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = torch.floor(canonical_level + torch.log2(area.sqrt() / canonical_side) + _LEVEL_EPSILON)
    return (level - finest).nan_to_num(nan=0.0).clamp(0, len(scales) - 1).long()


def multiscale_roi_align_reference(
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
    """Pool level by level, differentiable in the features."""
    channels = features[0].shape[1]
    pooled = features[0].new_zeros(len(rois), output_side, output_side, channels)
    # empty slices: a level without ROIs still gets a gradient of zeros
    pooled = pooled + sum(feature[:0].sum() for feature in features)
    if len(scales) == 1:
        levels = torch.zeros(len(rois), dtype=torch.long, device=rois.device)
    else:
        levels = pyramid_levels(rois, scales, canonical_side, canonical_level)
    rois = torch.cat((rois[:, :3], rois[:, 3:] - far_corner_inset), dim=1)
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        on_level = (levels == level).nonzero().squeeze(1)
        for members, samples in _group_by_samples(
            rois, on_level, scale, output_side, sampling_ratio, aligned
        ):
            values = _roi_align(feature, rois[members], scale, output_side, samples, aligned)
            pooled = pooled.index_copy(0, members, values)
    return pooled.permute(0, 3, 1, 2)


def _group_by_samples(
    rois: Tensor,
    members: Tensor,
    scale: float,
    output_side: int,
    sampling_ratio: int,
    aligned: bool,
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Split ``members`` into groups of equal samples per bin (y, x) that fit in memory."""
    if sampling_ratio > 0:
        samples = torch.full((len(members), 2), sampling_ratio)
    else:
        sides = _starts_and_sides(rois[members], scale, aligned)[1]
        samples = (sides / output_side).ceil().nan_to_num(nan=0.0, posinf=0.0)
        samples = samples.clamp(0, _MAX_SAMPLES_PER_BIN).long().cpu()
    groups = []
    for pair in torch.unique(samples, dim=0):
        rows, columns = int(pair[0]), int(pair[1])
        if rows * columns == 0:
            continue  # an empty ROI: nothing is sampled, its bins stay zero
        group = members[(samples == pair).all(1).to(members.device)]
        chunk = max(1, _MAX_BAG_ENTRIES // (4 * rows * columns * output_side**2))
        groups += [(part, (rows, columns)) for part in torch.split(group, chunk)]
    return groups


def _starts_and_sides(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Return the upper left corners and the sides of ROIs on a level; each (R, 2) as (y, x)."""
    shift = 0.5 if aligned else 0.0
    start = rois[:, [2, 1]] * scale - shift
    side = rois[:, [4, 3]] * scale - shift - start
    return start, side if aligned else side.clamp(min=1.0)


def _roi_align(
    feature: Tensor,
    rois: Tensor,
    scale: float,
    output_side: int,
    samples: tuple[int, int],
    aligned: bool,
) -> Tensor:
    """Return the average of the bilinear samples on one level: (R, S, S, C)."""
    channels, height, width = feature.shape[1:]
    start, side = _starts_and_sides(rois, scale, aligned)
    rows, row_weights = _axis_taps(start[:, 0], side[:, 0], output_side, samples[0], height)
    columns, column_weights = _axis_taps(start[:, 1], side[:, 1], output_side, samples[1], width)
    # every bin (R, S, S) is a weighted sum of (2 Ty x 2 Tx) pixels: a bag of rows of the map
    image = rois[:, 0].long().view(-1, 1, 1, 1, 1)
    pixels = (image * height + rows[:, :, None, :, None]) * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    bags = len(rois) * output_side**2
    compute_type = torch.promote_types(feature.dtype, torch.float32)
    pooled = F.embedding_bag(
        pixels.reshape(bags, -1),
        feature.permute(0, 2, 3, 1).reshape(-1, channels).to(compute_type),
        mode="sum",
        per_sample_weights=weights.reshape(bags, -1).to(compute_type),
    )
    return pooled.view(len(rois), output_side, output_side, channels).to(feature.dtype)


def _axis_taps(
    start: Tensor, side: Tensor, output_side: int, samples: int, length: int
) -> tuple[Tensor, Tensor]:
    """Return the pixels that each bin reads along one axis and their weights; each (R, S, 2 T)."""
    bin_side = (side / output_side)[:, None, None]
    bins = torch.arange(output_side, device=start.device, dtype=start.dtype)[:, None]
    offsets = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    position = start[:, None, None] + bins * bin_side + offsets * bin_side / samples
    inside = (position >= -1.0) & (position <= length)
    position = torch.where(inside, position, 0.0).clamp(0, length - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    fraction = position - low
    share = inside.to(start.dtype) / samples
    return torch.cat([low, high], 2), torch.cat([(1 - fraction) * share, fraction * share], 2)
