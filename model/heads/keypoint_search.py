"""The best place of each heatmap by products of fixed size, for programs that cannot loop.

Shapes: R ROIs, P keypoints of an object, M heatmap side, N pixels looked at on an axis.
Source: the bicubic kernel, Keys 1981, with the -0.75 of torch and OpenCV.
"""

import torch
from torch import Tensor

_SHARPNESS = -0.75
# Pixels looked at on each side of the best one of those spread over the box.
_NEIGHBOURS = 16


def search_keypoints(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """As ``find_keypoints``, but of large boxes only the pixels around the likeliest place.

    Of the heatmap resized to its box, 2 M pixels an axis are looked at, evenly spread; then all
    around the best of those, to the next ones of them. In a box of up to 2 M pixels an axis that is
    every pixel. In a larger one the spread ones are half a cell of the heatmap apart, so the
    result is the best pixel unless another peak is all but as high: then it may be that one's. In
    a box of more than 32 M pixels an axis (1792 of M = 56), where at last every second, third ..
    pixel is looked at, it may be a neighbour.

    Args:
        heatmaps: (R, P, M, M) float32 logits.
        boxes: (R, 4) float32, pixels.

    Returns:
        (R, P, 3) float32: x, y in the boxes' pixels, and the logit there.
    """
    side = heatmaps.shape[-1]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()  # (R, 2): width, height
    steps = (pixels / (2 * side)).clamp(min=1)
    nth = torch.arange(2 * side, device=boxes.device)
    spread = torch.minimum(((nth + 0.5) * steps[..., None]).floor(), pixels[..., None] - 1)
    # fp32: eight bits would move the maximum.
    with torch.autocast(heatmaps.device.type, enabled=False):
        best, _ = _best_of(heatmaps, spread[:, None], pixels)
        gaps = (steps.ceil() / _NEIGHBOURS).clamp(min=1)[:, None, :, None]
        shifts = torch.arange(-_NEIGHBOURS, _NEIGHBOURS + 1, device=boxes.device)
        around = best[..., None] + (shifts * gaps).floor()  # (R, P, 2, N)
        last = pixels[:, None, :, None] - 1
        best, logits = _best_of(heatmaps, torch.minimum(around.clamp(min=0), last), pixels)
    xy = (best + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2]
    return torch.cat((xy, logits[..., None]), 2)


def _best_of(heatmaps: Tensor, looked_at: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The best of some columns and rows, (R, P or 1, 2, N): (R, P, 2), and its logit (R, P)."""
    weights = _cell_weights(looked_at, pixels[:, None, :, None], heatmaps.shape[-1])
    resized = weights[:, :, 1] @ heatmaps @ weights[:, :, 0].transpose(2, 3)  # (R, P, N, N)
    logits, place = resized.flatten(2).max(dim=2)
    count = looked_at.shape[-1]
    looked_at = looked_at.expand(-1, heatmaps.shape[1], -1, -1)
    nth = torch.stack((place % count, place // count), dim=2)[..., None]
    return looked_at.gather(3, nth)[..., 0], logits


def _cell_weights(places: Tensor, pixels: Tensor, side: int) -> Tensor:
    """What each of M cells adds to a pixel: (..., N, M) of the pixels (..., N) of ``pixels``."""
    place = (places + 0.5) * (side / pixels) - 0.5
    first = place.floor()
    cells = torch.arange(side, device=places.device, dtype=places.dtype)
    parts = []
    for tap in (-1, 0, 1, 2):
        weight = _kernel((place - first - tap).abs())
        cell = (first + tap).clamp(0, side - 1)  # beyond the border lies what lies on it
        parts.append(torch.where(cells == cell[..., None], weight[..., None], 0.0))
    return parts[0] + parts[1] + parts[2] + parts[3]


def _kernel(distance: Tensor) -> Tensor:
    """The weight of a cell at a distance of 0 to 2 cells."""
    a = _SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, far)
