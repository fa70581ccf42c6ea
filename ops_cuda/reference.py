"""Pure-torch twins of every compiled operator: the oracle of its tests and the fallback.

They say what an operator means in the fewest operations; speed is the compiled library's business.
Arguments are taken as valid: the public wrappers have checked them.

Shapes: N boxes, R rois, C channels, B images, L levels, S output side, G samples per bin and axis,
M mask side, E edges, P polygons, H W pixels. Boxes are x1 y1 x2 y2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LEVEL_EPSILON = 1e-6
MAX_SAMPLES_PER_BIN = 1024
_BAG_ENTRIES = 1 << 25


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int = -1) -> Tensor:
    """Twin of `ops_cuda.nms`: keep the best box, drop what overlaps it, repeat."""
    order = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Tensor] = []
    while len(order) and len(kept) != max_kept:
        best, rest = order[0], order[1:]
        kept.append(best)
        upper_left = torch.maximum(boxes[best, :2], boxes[rest, :2])
        lower_right = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        width, height = (lower_right - upper_left).clamp(min=0).unbind(1)
        shared = width * height
        iou = shared / (areas[best] + areas[rest] - shared)
        # as doubles, like torchvision: the threshold is not rounded to the boxes' precision
        order = rest[~(iou.double() > iou_threshold)]
    return torch.stack(kept) if kept else order.new_empty(0)


def batched_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """Twin of `ops_cuda.batched_nms`: `nms` of each class, best scores of all classes first."""
    survives = torch.zeros_like(scores, dtype=torch.bool)
    for label in torch.unique(classes):
        members = (classes == label).nonzero().squeeze(1)
        survives[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    order = scores.argsort(descending=True, stable=True)
    kept = order[survives[order]]
    return kept if max_kept < 0 else kept[:max_kept]


def pyramid_levels(
    rois: Tensor, scales: Sequence[float], canonical_side: float, canonical_level: int
) -> Tensor:
    """Position in ``scales`` of the level that each roi reads.

    Args:
        rois: (R, 5) image index, x1 y1 x2 y2.
        scales: pixels of a level per image pixel, each half of the one before.
        canonical_side: side of a roi that belongs on ``canonical_level``, pixels.
        canonical_level: that level; level k has scale 2 ** -k.

    Returns:
        (R,) int64 in [0, L); an area that is no number reads the finest level.

    Source: Lin et al. 2017, equation 1; the epsilon is torchvision's.
    """
    finest = -torch.tensor(scales[0], dtype=torch.float64).log2().round()
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = torch.floor(canonical_level + torch.log2(area.sqrt() / canonical_side) + LEVEL_EPSILON)
    return (level - finest.to(level)).nan_to_num(nan=0.0).clamp(0, len(scales) - 1).long()


def multiscale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_side: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
    canonical_side: float = 224.0,
    canonical_level: int = 4,
) -> Tensor:
    """Twin of `ops_cuda.multiscale_roi_align`, differentiable in the features."""
    channels = features[0].shape[1]
    pooled = features[0].new_zeros(len(rois), output_side, output_side, channels)
    # empty slices: a level that no roi reads still gets a gradient of zeros
    pooled = pooled + sum(feature[:0].sum() for feature in features)
    if len(scales) == 1:
        levels = torch.zeros(len(rois), dtype=torch.long, device=rois.device)
    else:
        levels = pyramid_levels(rois, scales, canonical_side, canonical_level)
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        on_level = (levels == level).nonzero().squeeze(1)
        for members, samples in _rois_by_samples(
            rois, on_level, scale, output_side, sampling_ratio, aligned
        ):
            values = _roi_align(feature, rois[members], scale, output_side, samples, aligned)
            pooled = pooled.index_copy(0, members, values)
    return pooled.permute(0, 3, 1, 2)


def _rois_by_samples(
    rois: Tensor,
    members: Tensor,
    scale: float,
    output_side: int,
    sampling_ratio: int,
    aligned: bool,
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Split ``members`` into groups with equal samples per bin on (y, x), small enough to hold."""
    if sampling_ratio > 0:
        samples = torch.full((len(members), 2), sampling_ratio)
    else:
        sides = _starts_and_sides(rois[members], scale, aligned)[1]
        samples = (sides / output_side).ceil().nan_to_num(nan=0.0, posinf=0.0)
        samples = samples.clamp(0, MAX_SAMPLES_PER_BIN).long().cpu()
    groups = []
    for pair in torch.unique(samples, dim=0):
        rows, columns = int(pair[0]), int(pair[1])
        if rows * columns == 0:
            continue  # an empty roi: nothing is sampled, the bins stay zero
        group = members[(samples == pair).all(1).to(members.device)]
        chunk = max(1, _BAG_ENTRIES // (4 * rows * columns * output_side**2))
        groups += [(part, (rows, columns)) for part in torch.split(group, chunk)]
    return groups


def _starts_and_sides(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Upper left corners and sides of the rois on a level; each (R, 2) as (y, x)."""
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
    """Average of bilinear samples on one level: (R, S, S, C)."""
    channels, height, width = feature.shape[1:]
    start, side = _starts_and_sides(rois, scale, aligned)
    rows, row_weights = _axis_taps(start[:, 0], side[:, 0], output_side, samples[0], height)
    columns, column_weights = _axis_taps(start[:, 1], side[:, 1], output_side, samples[1], width)
    # every bin (R, S, S) is a weighted sum of (2 Gy x 2 Gx) pixels: a bag of rows of the map
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
    """Pixels and weights that the bins read along one axis; each (R, S, 2 G)."""
    bin_side = (side / output_side)[:, None, None]
    bins = torch.arange(output_side, device=start.device, dtype=start.dtype)[:, None]
    offsets = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    at = start[:, None, None] + bins * bin_side + offsets * bin_side / samples
    inside = (at >= -1.0) & (at <= length)
    at = torch.where(inside, at, 0.0).clamp(0, length - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=length - 1)
    fraction = at - low
    share = inside.to(start.dtype) / samples
    return torch.cat([low, high], 2), torch.cat([(1 - fraction) * share, fraction * share], 2)


def rasterize_polygons(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Twin of `ops_cuda.rasterize_polygons`: even-odd crossings of a ray to the right."""
    masks = vertices.new_zeros(len(boxes), side, side)
    steps = torch.arange(side, device=vertices.device, dtype=vertices.dtype) + 0.5
    polygon_starts, object_starts = polygon_offsets.tolist(), object_offsets.tolist()
    for mask, item, box in zip(masks, objects.tolist(), boxes, strict=True):
        columns = box[0] + steps * ((box[2] - box[0]) / side)
        rows = box[1] + steps * ((box[3] - box[1]) / side)
        for polygon in range(object_starts[item], object_starts[item + 1]):
            begin = vertices[polygon_starts[polygon] : polygon_starts[polygon + 1]]
            (x1, y1), (x2, y2) = begin.T[..., None], begin.roll(-1, 0).T[..., None]
            crosses = (y1 <= rows) != (y2 <= rows)
            crossing = x1 + (rows - y1) / (y2 - y1) * (x2 - x1)
            right_of = crosses[..., None] & (columns < crossing[..., None])
            mask[right_of.sum(0) % 2 == 1] = 1.0
    return masks


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Twin of `ops_cuda.paste_masks`: resize each padded mask to its whole-pixel box."""
    canvases = torch.zeros(len(masks), height, width, dtype=torch.uint8, device=masks.device)
    corners = padded_boxes(boxes, masks.shape[-1]).tolist()
    for canvas, mask, (x1, y1, x2, y2) in zip(
        canvases, F.pad(masks, (1, 1, 1, 1)), corners, strict=True
    ):
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
        size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        if left >= right or top >= bottom:
            continue
        resized = F.interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)
        inside = resized[0, 0, top - y1 : bottom - y1, left - x1 : right - x1]
        canvas[top:bottom, left:right] = inside > threshold
    return canvases


def padded_boxes(boxes: Tensor, mask_side: int) -> Tensor:
    """Boxes grown like a mask of ``mask_side`` padded by one pixel, in whole pixels.

    Returns:
        (R, 4) int64, rounded towards zero; a box that is not finite becomes one without pixels.
    """
    scale = (mask_side + 2) / mask_side
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    grown = torch.cat([centre - half, centre + half], 1)
    nowhere = grown.new_tensor([-2.0, -2.0, -3.0, -3.0])
    return torch.where(grown.isfinite().all(1, keepdim=True), grown, nowhere).long()
