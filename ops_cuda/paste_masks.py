"""Pasting of ROI masks onto the image. Shapes: R ROIs, M mask side, H W image."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops_cuda.checks import (
    require_equal_length,
    require_floating,
    require_one_device,
    require_positive,
    require_rows,
)
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake


def paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> Tensor:
    """Resize each ROI mask to its box on the image and compare it with ``threshold``.

    Without ``grid``, the geometry of torchvision's ``paste_masks_in_image`` and
    maskrcnn-benchmark's ``Masker``: the mask is padded by one pixel of zeros, and its box is grown
    in proportion and rounded toward zero to whole pixels, both corners inclusive. With ``grid``,
    that of detectron2: the mask fills the box, and each image pixel samples the mask, zero outside,
    at its center.

    Args:
        masks: (R, M, M) float, probability in [0, 1].
        boxes: (R, 4) float, x1 y1 x2 y2, pixels; parts outside the image are cut off, a box that
            is not finite gives an empty bitmap.
        height: image height, pixels.
        width: image width, pixels.
        threshold: a pixel is set where its probability is above this.
        grid: sample the mask at pixel centers instead of resizing it to whole pixels.

    Returns:
        (R, H, W) uint8, 0 or 1: torchvision's probabilities above the threshold, except for pixels
        within float rounding of it.

    Raises:
        ValueError: shapes, types or devices are not as above.

    Source: He et al. 2017, section 3.1, inference.
    """
    masks, boxes = require_masks(masks, boxes, height, width)
    if not compiled_for("paste_masks", boxes.device):
        return paste_masks_reference(masks, boxes, height, width, threshold, grid)
    bitmaps: Tensor = torch.ops.ops_cuda.paste_masks(masks, boxes, height, width, threshold, grid)
    return bitmaps


def require_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return masks and boxes detached, in float32.

    Raises:
        ValueError: they or the image size are not as `paste_masks` takes them.
    """
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or masks.shape[1] == 0:
        raise ValueError(f"masks must be (R, M, M); got {tuple(masks.shape)}")
    require_floating("masks", masks)
    require_rows("boxes", boxes, 4)
    require_equal_length(masks=masks, boxes=boxes)
    require_one_device(masks=masks, boxes=boxes)
    require_positive("height", height)
    require_positive("width", width)
    return masks.detach().float(), boxes.detach().float()


@register_fake("paste_masks")
def _paste_masks_fake(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool
) -> Tensor:
    return masks.new_empty(masks.shape[0], height, width, dtype=torch.uint8)


register_autocast_to_float32("paste_masks")


def paste_masks_reference(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> Tensor:
    """Resize each padded mask to its box in whole pixels, or sample it on a grid."""
    if grid:
        return _sample_at_pixel_centers(masks, boxes, height, width, threshold)
    bitmaps = torch.zeros(len(masks), height, width, dtype=torch.uint8, device=masks.device)
    corners = _padded_boxes(boxes, masks.shape[-1]).tolist()
    for bitmap, mask, (x1, y1, x2, y2) in zip(
        bitmaps, F.pad(masks, (1, 1, 1, 1)), corners, strict=True
    ):
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
        size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        if left >= right or top >= bottom:
            continue
        resized = F.interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)
        inside = resized[0, 0, top - y1 : bottom - y1, left - x1 : right - x1]
        bitmap[top:bottom, left:right] = inside > threshold
    return bitmaps


def _sample_at_pixel_centers(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Tensor:
    """Compute every pixel as a weighted sum of mask cells: bilinear sampling at its center."""
    columns = _bilinear_weights(boxes[:, 0], boxes[:, 2], width, masks.shape[-1])
    rows = _bilinear_weights(boxes[:, 1], boxes[:, 3], height, masks.shape[-1])
    return (rows @ masks @ columns.transpose(1, 2) > threshold).byte()


def _bilinear_weights(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """Return weights (R, pixels, cells) along one axis; zeros for a box without extent."""
    centers = torch.arange(pixels, device=low.device) + 0.5
    position = (centers - low[:, None]) / (high - low)[:, None] * cells - 0.5
    distance = (position[..., None] - torch.arange(cells, device=low.device)).abs()
    has_extent = (high > low) & low.isfinite() & high.isfinite()
    return torch.where(has_extent[:, None, None], (1 - distance).clamp(min=0), 0.0)


def _padded_boxes(boxes: Tensor, mask_side: int) -> Tensor:
    """Grow boxes in proportion to a mask of ``mask_side`` padded by one pixel on each side.

    Returns:
        (R, 4) int64, rounded toward zero; a box that is not finite becomes one without pixels.
    """
    scale = (mask_side + 2) / mask_side
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    grown = torch.cat([center - half, center + half], 1)
    empty = grown.new_tensor([-2.0, -2.0, -3.0, -3.0])
    return torch.where(grown.isfinite().all(1, keepdim=True), grown, empty).long()
