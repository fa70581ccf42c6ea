"""Validate an annotation's mask: polygons or run lengths."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as coco_masks

from model.images.decode import DecodeError
from model.structures import ImageSize
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.shards.run_lengths import run_ends

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2."""

Polygons = tuple[tuple[float, ...], ...]
"""Each polygon is a flat x y x y ..."""

_MAX_DISTANCE = 10  # image sides that a vertex may be away from the image
_SAME_AREA = 1e-3  # relative difference by which an annotated area may be rounded


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
        pixels = float(coco_masks.area(encode_polygons(self.polygons, size)))
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


def encode_polygons(polygons: Polygons, size: ImageSize) -> dict[str, Any]:
    """Return the COCO RLE of the union of polygons."""
    encoded: dict[str, Any] = coco_masks.merge(
        coco_masks.frPyObjects([list(polygon) for polygon in polygons], *size)
    )
    return encoded


def _outline_area(polygon: Sequence[float]) -> float:
    """Return the area inside of a polygon by the shoelace formula."""
    x, y = np.array(polygon[::2]), np.array(polygon[1::2])
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
