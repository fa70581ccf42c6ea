"""Box geometry: limits, clipping, scaling, of points too, and mirroring.

Shapes: B images, N boxes. Boxes are x1 y1 x2 y2 in continuous absolute pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.structures import ImageSize


def image_limits(sizes: Sequence[ImageSize], device: torch.device) -> Tensor:
    """The largest coordinates of each image as (B, 4) float32: width, height, width, height."""
    rows = [[size.width, size.height, size.width, size.height] for size in sizes]
    # From pinned memory the copy is ordered on the stream; from any other the host would wait.
    limits = torch.tensor(rows, dtype=torch.float32, pin_memory=device.type == "cuda")
    return limits.reshape(-1, 4).to(device, non_blocking=True)


def clip_boxes(boxes: Tensor, limits: Tensor, kept_side: float = 0.0) -> Tensor:
    """Move coordinates outside the image onto its border.

    Args:
        boxes: (..., 4), pixels.
        limits: (..., 4), broadcastable to boxes, from :func:`image_limits`.
        kept_side: a box beyond the border keeps this many pixels of the image.
    """
    near = torch.minimum(boxes[..., :2].clamp(min=0), limits[..., :2] - kept_side)
    far = torch.minimum(boxes[..., 2:].clamp(min=kept_side), limits[..., 2:])
    return torch.cat((near, far), dim=-1)


def sides_at_least(boxes: Tensor, side: float) -> Tensor:
    """Which of the boxes (..., 4) are at least ``side`` pixels wide and high: (...) bool."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)


def scale_boxes(boxes: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
    """Boxes (N, 4) of an image resized from ``old`` to ``new``."""
    return scale_points(boxes.view(-1, 2, 2), old, new).flatten(1)


def mirror_boxes(boxes: Tensor, size: ImageSize) -> Tensor:
    """Boxes (..., 4) of an image of this size, mirrored left to right."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((size.width - x2, y1, size.width - x1, y2), dim=-1)


def scale_points(points: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
    """Points (..., 2), x y, of an image resized from ``old`` to ``new``."""
    # Numbers, not a tensor of them, which would have to be copied to the device.
    x, y = points.unbind(-1)
    return torch.stack((x * (new.width / old.width), y * (new.height / old.height)), dim=-1)
