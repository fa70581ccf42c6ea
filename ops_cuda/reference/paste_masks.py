"""Twin of the pasting of masks. Shapes: R rois, M mask side, H W pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F


def paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> Tensor:
    """Twin of `ops_cuda.paste_masks`: resize each padded mask to its whole-pixel box."""
    if grid:
        return _read_at_centres(masks, boxes, height, width, threshold)
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


def _read_at_centres(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Tensor:
    """Every pixel a weighted sum of cells: the nearer a cell's centre, the heavier."""
    columns = _weights_at_centres(boxes[:, 0], boxes[:, 2], width, masks.shape[-1])
    rows = _weights_at_centres(boxes[:, 1], boxes[:, 3], height, masks.shape[-1])
    return (rows @ masks @ columns.transpose(1, 2) > threshold).byte()


def _weights_at_centres(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """(R, pixels, cells) weights along one axis; zeros of a box that has no extent there."""
    centres = torch.arange(pixels, device=low.device) + 0.5
    at = (centres - low[:, None]) / (high - low)[:, None] * cells - 0.5
    distance = (at[..., None] - torch.arange(cells, device=low.device)).abs()
    is_box = (high > low) & low.isfinite() & high.isfinite()
    return torch.where(is_box[:, None, None], (1 - distance).clamp(min=0), 0.0)


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
