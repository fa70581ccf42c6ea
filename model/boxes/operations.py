"""Clip, scale and flip boxes and points. Shapes as in ``model.structures``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.structures import ImageSize
from model.structures.transfer import tensor_on


def image_limits(sizes: Sequence[ImageSize], device: torch.device) -> Tensor:
    """Return the largest coordinates of each image, (B, 4) float32: W, H, W, H."""
    rows = [[size.width, size.height, size.width, size.height] for size in sizes]
    return tensor_on(device, rows, torch.float32).reshape(-1, 4)


def clip_boxes(boxes: Tensor, limits: Tensor, min_side: float = 0.0) -> Tensor:
    """Move coordinates outside the image onto its border.

    Args:
        boxes: (..., 4), pixels.
        limits: (..., 4), broadcastable to boxes, from :func:`image_limits`.
        min_side: side length that a box outside the image keeps, pixels.
    """
    near = torch.minimum(boxes[..., :2].clamp(min=0), limits[..., :2] - min_side)
    far = torch.minimum(boxes[..., 2:].clamp(min=min_side), limits[..., 2:])
    return torch.cat((near, far), dim=-1)


def sides_at_least(boxes: Tensor, side: float) -> Tensor:
    """Return (...) bool: which boxes (..., 4) are at least ``side`` pixels wide and high."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)


def scale_boxes(boxes: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
    """Scale boxes (N, 4) of an image resized from ``old`` to ``new``."""
    return scale_points(boxes.view(-1, 2, 2), old, new).flatten(1)


def scale_points(points: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
    """Scale points (..., 2), x y, of an image resized from ``old`` to ``new``."""
    # Python numbers: a tensor of scales would have to be copied to the device.
    x, y = points.unbind(-1)
    return torch.stack((x * (new.width / old.width), y * (new.height / old.height)), dim=-1)


def flip_boxes(boxes: Tensor, size: ImageSize) -> Tensor:
    """Flip boxes (..., 4) of an image of this size horizontally."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((size.width - x2, y1, size.width - x1, y2), dim=-1)
