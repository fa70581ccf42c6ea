"""The arithmetic of two libraries, from their papers and documentation, on their own boxes."""

import math

import torch
import torch.nn.functional as F

from tests.model.legacy.reference_inference import Peer


def _size_rounded_down(height, width, short, long):
    smaller, larger = min(height, width), max(height, width)
    if larger / smaller * short > long:
        short = round(long * smaller / larger)
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def _anchors_at_origin(sizes, ratios, stride):
    """Return anchors around the center of the stride's square of pixels, 0 to stride - 1."""
    center, boxes = (stride - 1) / 2, []
    for ratio in ratios:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        for size in sizes:
            half_width = (width * size / stride - 1) / 2
            half_height = (height * size / stride - 1) / 2
            boxes.append([center - half_width, center - half_height])
            boxes[-1] += [center + half_width, center + half_height]
    return boxes


def _paste_whole_pixels(mask, box, height, width):
    side = mask.shape[0]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_width = (box[2] - box[0]) / 2 * (side + 2) / side
    half_height = (box[3] - box[1]) / 2 * (side + 2) / side
    x1, y1 = int(x - half_width), int(y - half_height)
    x2, y2 = int(x + half_width), int(y + half_height)
    padded = F.pad(mask, (1, 1, 1, 1))[None, None]
    size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
    resized = F.interpolate(padded, size, mode="bilinear", align_corners=False)[0, 0] > 0.5
    canvas = torch.zeros(height, width, dtype=torch.bool)
    for row in range(max(y1, 0), min(y2 + 1, height)):
        left, right = max(x1, 0), min(x2 + 1, width)
        if left < right:
            canvas[row, left:right] = resized[row - y1, left - x1 : right - x1]
    return canvas


MASKRCNN_BENCHMARK = Peer(
    resized=_size_rounded_down,
    anchors=_anchors_at_origin,
    sides=lambda box: (box[2] - box[0] + 1, box[3] - box[1] + 1),
    from_center=lambda x, y, w, h: [x - w / 2, y - h / 2, x + w / 2 - 1, y + h / 2 - 1],
    last=lambda pixels: pixels - 1,
    align={"sampling_ratio": 2, "aligned": False},
    paste=_paste_whole_pixels,
)


def _size_rounded(height, width, short, long):
    scale = short / min(height, width)
    if max(height, width) * scale > long:
        scale = long / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _anchors_around_zero(sizes, ratios, stride):
    sides = [(s / math.sqrt(ratio), s * math.sqrt(ratio)) for ratio in ratios for s in sizes]
    return [[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides]


def _paste_by_grid(mask, box, height, width):
    x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5


DETECTRON2 = Peer(
    resized=_size_rounded,
    anchors=_anchors_around_zero,
    sides=lambda box: (box[2] - box[0], box[3] - box[1]),
    from_center=lambda x, y, w, h: [x - w / 2, y - h / 2, x + w / 2, y + h / 2],
    last=lambda pixels: pixels,
    align={"sampling_ratio": -1, "aligned": True},
    paste=_paste_by_grid,
)
