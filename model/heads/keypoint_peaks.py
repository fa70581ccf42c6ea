"""Find the peak of each keypoint heatmap after resizing it to its box in whole pixels.

Shapes as in ``model.structures``; N pixels of a box on one axis.
Source: Detectron's and torchvision's inference, a bicubic resize and its maximum. The bicubic
kernel: Keys 1981, with the -0.75 of torch and OpenCV.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_KERNEL_A = -0.75
# Pixels evaluated on either side of the best coarse pixel, see `find_peaks_for_export`.
_SEARCH_RADIUS = 16


def find_peaks(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Return the peak of each heatmap in the pixels of its box.

    Syncs with the device, because the size of a box decides how much there is to compute. An
    exported program cannot do that and uses :func:`find_peaks_for_export` instead.

    Args:
        heatmaps: (R, P, M, M) float32 logits.
        boxes: (R, 4) float32, pixels.

    Returns:
        (R, P, 3) float32: x, y in the pixels of the boxes, and the logit there.
    """
    if torch.compiler.is_exporting():
        return find_peaks_for_export(heatmaps, boxes)
    count, keypoints, side = heatmaps.shape[:3]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    logits = heatmaps.new_zeros(count, keypoints)
    index = torch.zeros(count, keypoints, dtype=torch.int64, device=heatmaps.device)
    # fp32: 8 bits of mantissa would move the maximum.
    with torch.autocast(heatmaps.device.type, enabled=False):
        for roi, (width, height) in enumerate(pixels.long().tolist()):
            # Two matrix products resize by rows and columns, faster than F.interpolate.
            columns = _resize_matrix(heatmaps, side, width).T
            resized = _resize_matrix(heatmaps, side, height) @ (heatmaps[roi] @ columns)
            logits[roi], index[roi] = resized.flatten(1).max(dim=1)
    width = pixels[:, :1].long()
    xy = torch.stack((index % width, index // width), dim=2) + 0.5
    return torch.cat((xy * (sides / pixels)[:, None] + boxes[:, None, :2], logits[..., None]), 2)


def find_peaks_for_export(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Return what :func:`find_peaks` does, by matrix products of fixed size.

    Evaluates 2 M pixels per axis, evenly spaced over the box, then all pixels around the best of
    them up to the next evaluated ones. In a box of up to 2 M pixels per axis that is every pixel.
    In a larger box the coarse pixels are half a heatmap cell apart, so the result is the maximum
    unless another peak is almost as high: then it may be that one. In a box of more than 32 M
    pixels per axis (1792 for M = 56), where the fine search skips pixels, it may be a neighbor of
    the maximum.

    Args:
        heatmaps: (R, P, M, M) float32 logits.
        boxes: (R, 4) float32, pixels.

    Returns:
        (R, P, 3) float32: x, y in the pixels of the boxes, and the logit there.
    """
    side = heatmaps.shape[-1]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()  # (R, 2): width, height
    steps = (pixels / (2 * side)).clamp(min=1)
    nth = torch.arange(2 * side, device=boxes.device)
    coarse = torch.minimum(((nth + 0.5) * steps[..., None]).floor(), pixels[..., None] - 1)
    # fp32: 8 bits of mantissa would move the maximum.
    with torch.autocast(heatmaps.device.type, enabled=False):
        best, _ = _best_pixel(heatmaps, coarse[:, None], pixels)
        gaps = (steps.ceil() / _SEARCH_RADIUS).clamp(min=1)[:, None, :, None]
        shifts = torch.arange(-_SEARCH_RADIUS, _SEARCH_RADIUS + 1, device=boxes.device)
        fine = best[..., None] + (shifts * gaps).floor()  # (R, P, 2, N)
        last = pixels[:, None, :, None] - 1
        best, logits = _best_pixel(heatmaps, torch.minimum(fine.clamp(min=0), last), pixels)
    xy = (best + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2]
    return torch.cat((xy, logits[..., None]), 2)


def _resize_matrix(like: Tensor, side: int, length: int) -> Tensor:
    """Return the matrix (length, side) of a bicubic resize of one axis."""
    cells = torch.eye(side, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(cells, (length, side), mode="bicubic", align_corners=False)[0, 0]


def _best_pixel(heatmaps: Tensor, candidates: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best pixel of each resized heatmap among some columns and rows.

    Args:
        heatmaps: (R, P, M, M).
        candidates: (R, P or 1, 2, N), the N columns and the N rows.
        pixels: (R, 2), width and height of the resized heatmap.

    Returns:
        Column and row (R, P, 2), and the logit there (R, P).
    """
    weights = _bicubic_weights(candidates, pixels[:, None, :, None], heatmaps.shape[-1])
    resized = weights[:, :, 1] @ heatmaps @ weights[:, :, 0].transpose(2, 3)  # (R, P, N, N)
    logits, index = resized.flatten(2).max(dim=2)
    count = candidates.shape[-1]
    candidates = candidates.expand(-1, heatmaps.shape[1], -1, -1)
    nth = torch.stack((index % count, index // count), dim=2)[..., None]
    return candidates.gather(3, nth)[..., 0], logits


def _bicubic_weights(positions: Tensor, pixels: Tensor, side: int) -> Tensor:
    """Return the weights (..., N, M) of M cells at positions (..., N) on an axis of ``pixels``."""
    center = (positions + 0.5) * (side / pixels) - 0.5
    first = center.floor()
    cells = torch.arange(side, device=positions.device, dtype=positions.dtype)
    parts = []
    for tap in (-1, 0, 1, 2):
        weight = _kernel((center - first - tap).abs())
        cell = (first + tap).clamp(0, side - 1)  # cells beyond the border repeat those on it
        parts.append(torch.where(cells == cell[..., None], weight[..., None], 0.0))
    return parts[0] + parts[1] + parts[2] + parts[3]


def _kernel(distance: Tensor) -> Tensor:
    """Return the bicubic weight of a cell at a distance of 0 to 2 cells."""
    a = _KERNEL_A
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, far)
