"""Compare a mask with its box: both must be in pixels of the same image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as coco_masks

from model.structures import ImageSize
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.ingest.validate_mask import Box, Mask, encode_polygons

_ROUNDING_PX = 1.0  # by which boxes and outlines are commonly rounded
_MIN_OVERLAP = 0.5  # IoU of a mask's bounds and its box; less is suspicious
_MIN_SHARE_INSIDE = 0.5  # of a mask's pixels in its box
_PROOFS = ((0.5, 0.8), (0.8, 0.95))
"""A mistake is proven if the IoU is below the first number, and above the second once undone."""

_MIN_PROOF_SIDE_PX = 4.0  # boxes that are smaller overlap by chance


def check_mask_fits_box(mask: Mask, box: Box, size: ImageSize) -> None:
    """Check that a mask is in the pixels of its box.

    An outline may poke out of its box, and a mask may fill little of it.

    Args:
        mask: the mask.
        box: the annotated box, x1 y1 x2 y2, before it is clipped to the image.
        size: size of the image.

    Raises:
        InvalidRecordError: most of the mask is outside of its box, or it would fit if it were not
            relative, in percent, scaled or with x and y exchanged.
    """
    bounds = mask.bounds
    overlap = 1.0 if bounds is None else _iou(bounds, box)
    if bounds is None or overlap >= _PROOFS[-1][0]:
        return
    shown = f"mask {_rounded(bounds)}, box {_rounded(box)} (x1 y1 x2 y2)"
    if min(box[2] - box[0], box[3] - box[1]) >= _MIN_PROOF_SIDE_PX:
        for mistake, undo in _mistakes(size):
            undone = _iou(undo(bounds), box)
            if any(overlap < low and undone >= high for low, high in _PROOFS):
                reason = "mask in other coordinates than its box"
                raise InvalidRecordError(reason, f"{mistake}: {shown}")
    if overlap >= _MIN_OVERLAP:
        return
    grown = (
        *(box[0] - _ROUNDING_PX, box[1] - _ROUNDING_PX),
        *(box[2] + _ROUNDING_PX, box[3] + _ROUNDING_PX),
    )
    if _share_of_bounds_inside(bounds, grown) >= _MIN_SHARE_INSIDE:
        return
    if _share_of_pixels_inside(mask, grown, size) < _MIN_SHARE_INSIDE:
        raise InvalidRecordError("mask outside its box", shown)


def _mistakes(size: ImageSize) -> list[tuple[str, Callable[[Box], Box]]]:
    """Return common mistakes of annotation tools, each with how to undo it on a box."""

    def scale(x: float, y: float) -> Callable[[Box], Box]:
        return lambda box: (box[0] * x, box[1] * y, box[2] * x, box[3] * y)

    height, width = size
    return [
        ("relative coordinates, 0 to 1", scale(width, height)),
        ("coordinates in percent of the image", scale(width / 100, height / 100)),
        ("coordinates scaled by two", scale(0.5, 0.5)),
        ("coordinates scaled by one half", scale(2, 2)),
        (
            "bbox is x1 y1 x2 y2 instead of x y width height",
            lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
        ),
        ("x and y exchanged", lambda box: (box[1], box[0], box[3], box[2])),
    ]


def _intersection(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def _box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(first: Box, second: Box) -> float:
    shared = _intersection(first, second)
    return shared / max(_box_area(first) + _box_area(second) - shared, 1e-12)


def _share_of_bounds_inside(bounds: Box, box: Box) -> float:
    # The bounds of a mask may be a line.
    x1, y1, x2, y2 = bounds
    solid = (x1, y1, max(x2, x1 + 1e-6), max(y2, y1 + 1e-6))
    return _intersection(solid, box) / _box_area(solid)


def _share_of_pixels_inside(mask: Mask, box: Box, size: ImageSize) -> float:
    """Return the share of a mask's pixels whose centers are in a box; 0 if it has no pixel."""
    rle: dict[str, Any] = {"size": list(size), "counts": mask.rle}
    if mask.rle is None:
        rle = encode_polygons(mask.polygons, size)
    rows, columns = np.nonzero(coco_masks.decode(rle))
    if not len(rows):
        return 0.0
    x1, y1, x2, y2 = box
    inside = (columns + 0.5 >= x1) & (columns + 0.5 <= x2) & (rows + 0.5 >= y1) & (rows + 0.5 <= y2)
    return float(inside.mean())


def _rounded(box: Box) -> list[float]:
    return [round(value, 1) for value in box]
