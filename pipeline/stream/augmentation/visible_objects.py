"""What a window leaves of the objects: boxes of their visible parts.

Shapes: N objects.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.structures import (
    ImageSize,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)
from pipeline.stream.augmentation.mask_crops import crop_of_runs
from pipeline.stream.augmentation.object_selection import select_objects

# An object with less of its box inside the window, pixels, is left out.
MIN_SIDE = 1.0

Bounds = tuple[float, float, float, float]


def keep_visible(targets: Targets, size: ImageSize) -> Targets:
    """Clip objects to an image; those without a visible part are left out.

    The box of an object that is cut becomes that of the visible part of its mask, if it has one.
    Masks are not cut: they are read only inside boxes.

    Args:
        targets: objects in the pixels of the image, which may extend beyond it.
        size: of the image.
    """
    limits = torch.tensor([size.width, size.height] * 2, dtype=torch.float32)
    clipped = torch.minimum(targets.boxes.clamp(min=0), limits)
    is_cut = (clipped != targets.boxes).any(dim=1)
    for index in is_cut.nonzero().flatten().tolist():
        bounds = _visible_bounds(targets.masks, index, size)
        if bounds is not None:
            clipped[index] = torch.tensor(bounds)
    points = targets.keypoints
    if points is not None:
        points = _hide_outside(points, size)
    kept = ((clipped[:, 2:] - clipped[:, :2]) >= MIN_SIDE).all(dim=1)
    return select_objects(
        replace(targets, boxes=clipped, keypoints=points), kept.nonzero().flatten()
    )


def _hide_outside(keypoints: Tensor, size: ImageSize) -> Tensor:
    """Set keypoints (N, P, 3) outside the image to 0, 0, 0: not labeled."""
    limits = torch.tensor([size.width, size.height], dtype=torch.float32)
    points = keypoints[..., :2]
    inside = ((points >= 0) & (points <= limits)).all(dim=-1, keepdim=True)
    return torch.where(inside, keypoints, 0.0)


def _visible_bounds(masks: InstanceMasks | None, index: int, size: ImageSize) -> Bounds | None:
    """Return x1 y1 x2 y2 of the part of a mask inside the image.

    None if the object has no mask; an empty box if its mask has no visible part.
    """
    match masks:
        case PolygonMasks():
            return _bounds_of_polygons(masks, index, size)
        case RunLengthMasks():
            return _bounds_of_runs(masks, index, size)
        case MixedMasks():
            polygons = _bounds_of_polygons(masks.polygons, index, size)
            return polygons or _bounds_of_runs(masks.runs, index, size)
    return None


def _bounds_of_polygons(masks: PolygonMasks, index: int, size: ImageSize) -> Bounds | None:
    first, last = masks.object_offsets[index : index + 2].tolist()
    if first == last:
        return None
    parts = []
    for polygon in range(first, last):
        start, stop = masks.polygon_offsets[polygon : polygon + 2].tolist()
        parts.append(clip_polygon(masks.vertices[start:stop].double().numpy(), size))
    return _bounds(np.concatenate(parts))


def clip_polygon(vertices: NDArray[np.float64], size: ImageSize) -> NDArray[np.float64]:
    """Return the vertices (M, 2) of the part of a polygon (V, 2) inside an image, M may be 0.

    Source: Sutherland and Hodgman 1974.
    """
    for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, size.width, -1), (1, size.height, -1)):
        distance = sign * (vertices[:, axis] - limit)  # to the border; positive inside
        after, beyond = np.roll(distance, -1), np.roll(vertices, -1, axis=0)
        inside, crosses = distance >= 0, (distance >= 0) != (after >= 0)
        share = np.divide(distance, distance - after, out=np.zeros_like(distance), where=crosses)
        crossing = vertices + share[:, None] * (beyond - vertices)
        crossing[:, axis] = limit
        # Each vertex inside, and after it the place where its edge crosses the border.
        both = np.stack([vertices, crossing], axis=1).reshape(-1, 2)
        vertices = both[np.stack([inside, crosses], axis=1).ravel()]
    return vertices


def _bounds_of_runs(masks: RunLengthMasks, index: int, size: ImageSize) -> Bounds | None:
    first, last = masks.run_offsets[index : index + 2].tolist()
    if first == last:
        return None
    crop = crop_of_runs(masks, index)
    scale, shift = masks.to_canvas[index].double().numpy().reshape(2, 2)
    corners = np.sort(scale * [[0, 0], [size.width, size.height]] + shift, axis=0)
    corners = np.round(corners) - [crop.left, crop.top]
    x1, y1, x2, y2 = np.maximum(corners, 0).astype(int).ravel()
    rows, columns = np.nonzero(crop.bitmap[y1:y2, x1:x2])
    pixels = np.stack([columns + x1 + crop.left, rows + y1 + crop.top], axis=1)
    return _bounds((np.concatenate([pixels, pixels + 1]) - shift) / scale)


def _bounds(points: NDArray[np.float64]) -> Bounds:
    if not len(points):
        return 0.0, 0.0, 0.0, 0.0
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2
