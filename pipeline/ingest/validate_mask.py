"""Validate an annotation's mask, polygons or run lengths, and compare it with its box."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as coco_masks

from model.structures import ImageSize
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.shards.decode import DecodeError
from pipeline.shards.run_lengths import run_ends

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2."""

Polygons = tuple[tuple[float, ...], ...]
"""Each polygon is a flat x y x y ..."""

_MAX_DISTANCE = 10  # image sides that a vertex may be away from the image
_SAME_AREA = 1e-3  # relative difference by which an annotated area may be rounded
_ROUNDING_PX = 1.0  # by which boxes and outlines are commonly rounded
_MIN_OVERLAP = 0.5  # IoU of a mask's bounds and its box; less is suspicious
_MIN_SHARE_INSIDE = 0.5  # of a mask's pixels in its box
_PROOFS = ((0.5, 0.8), (0.8, 0.95))
"""A mistake is proven if the IoU is below the first number, and above the second once undone."""

_MIN_PROOF_SIDE_PX = 4.0  # boxes that are smaller overlap by chance


@dataclass(frozen=True)
class Mask:
    """A valid mask; without polygons and run lengths the object has none.

    Args:
        polygons: its parts, unless it is run lengths.
        rle: COCO's compressed counts, unless it is polygons.
        bounds: the box around it, x1 y1 x2 y2; None without a mask.
        parts_dropped: number of unusable polygons that were left out.
    """

    polygons: Polygons = ()
    rle: str | None = None
    bounds: Box | None = None
    parts_dropped: int = 0

    def area(self, size: ImageSize, annotated: float | None) -> float:
        """Return the area in square pixels.

        An annotated area that equals that of the outlines is returned as it is, as COCO's are.
        """
        if self.rle is not None:
            return float(coco_masks.area({"size": list(size), "counts": self.rle}))
        outlines = sum(_outline_area(polygon) for polygon in self.polygons)
        if annotated is not None and math.isclose(annotated, outlines, rel_tol=_SAME_AREA):
            return annotated
        # The outlines count twice where they overlap, and also outside of the image.
        pixels = float(coco_masks.area(_encode(self.polygons, size)))
        return pixels if pixels > 0 else outlines


def validate_mask(segmentation: Any, size: ImageSize) -> Mask:
    """Return the mask of an annotation without its unusable parts.

    Args:
        segmentation: polygons, or an RLE with ``size`` and ``counts``; empty or None for no mask.
        size: size of the image.

    Raises:
        InvalidRecordError: no part is usable, or the run lengths do not fit the image.
    """
    if not segmentation:
        return Mask()
    if isinstance(segmentation, dict):
        return _validate_rle(segmentation, size)
    if not isinstance(segmentation, list):
        raise InvalidRecordError("invalid polygon", "segmentation is not a list of lists")
    polygons, errors = [], []
    for part in segmentation:
        try:
            polygons.append(_validate_polygon(part, size))
        except InvalidRecordError as error:
            errors.append(error)
    if not polygons:
        raise errors[0]
    xs, ys = (np.concatenate([p[axis::2] for p in polygons]) for axis in (0, 1))
    bounds = (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
    return Mask(tuple(polygons), None, bounds, len(errors))


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


def _validate_polygon(part: Any, size: ImageSize) -> tuple[float, ...]:
    reason = "invalid polygon"
    if not isinstance(part, list | tuple):
        raise InvalidRecordError(reason, "segmentation is not a list of lists of numbers")
    try:
        polygon = tuple(float(value) for value in part)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRecordError(reason, "a polygon is not a list of numbers") from None
    if len(polygon) < 6 or len(polygon) % 2:
        detail = f"{len(polygon)} numbers; a polygon needs 3 or more x y pairs"
        raise InvalidRecordError(reason, detail)
    if not all(map(math.isfinite, polygon)):
        raise InvalidRecordError("non-finite coordinates", "in a polygon")
    if max(map(abs, polygon)) > (_MAX_DISTANCE + 1) * max(size):
        raise InvalidRecordError(reason, "a vertex is far outside the image")
    return polygon


def _validate_rle(segmentation: Mapping[str, Any], size: ImageSize) -> Mask:
    """Return the mask of a compressed or uncompressed RLE."""
    reason, counts = "invalid RLE mask", segmentation.get("counts")
    if segmentation.get("size") != list(size):
        detail = (
            f"mask size {segmentation.get('size')} differs from image size {list(size)} "
            "(height, width)"
        )
        raise InvalidRecordError(reason, detail[:200])
    if isinstance(counts, list):
        if any(type(run) is not int or run < 0 for run in counts) or sum(counts) != math.prod(size):
            detail = "run lengths are negative, no integers or do not add up to the image's pixels"
            raise InvalidRecordError(reason, detail)
        uncompressed = {"size": list(size), "counts": counts}
        counts = coco_masks.frPyObjects(uncompressed, *size)["counts"].decode("ascii")
    if not isinstance(counts, str):
        raise InvalidRecordError(reason, "counts must be a string or a list of integers")
    try:
        run_ends(counts, size)
    except (DecodeError, ValueError) as error:
        raise InvalidRecordError(reason, str(error)[:200]) from None
    rle = {"size": list(size), "counts": counts}
    if not coco_masks.area(rle):
        raise InvalidRecordError("empty mask", "its run lengths cover no pixel")
    x, y, width, height = coco_masks.toBbox(rle).tolist()
    return Mask((), counts, (x, y, x + width, y + height))


def _encode(polygons: Polygons, size: ImageSize) -> dict[str, Any]:
    encoded: dict[str, Any] = coco_masks.merge(
        coco_masks.frPyObjects([list(polygon) for polygon in polygons], *size)
    )
    return encoded


def _outline_area(polygon: Sequence[float]) -> float:
    """Return the area inside of a polygon by the shoelace formula."""
    x, y = np.array(polygon[::2]), np.array(polygon[1::2])
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


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
        rle = _encode(mask.polygons, size)
    rows, columns = np.nonzero(coco_masks.decode(rle))
    if not len(rows):
        return 0.0
    x1, y1, x2, y2 = box
    inside = (columns + 0.5 >= x1) & (columns + 0.5 <= x2) & (rows + 0.5 >= y1) & (rows + 0.5 <= y2)
    return float(inside.mean())


def _rounded(box: Box) -> list[float]:
    return [round(value, 1) for value in box]
