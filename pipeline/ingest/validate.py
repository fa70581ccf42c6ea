"""Validate annotations: keep, correct or quarantine each, with a reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.structures import ImageSize
from pipeline.ingest.mask_fit import check_mask_fits_box
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.ingest.validate_mask import Box, Mask, Polygons, validate_mask
from pipeline.shards.keypoints import PIXEL_CENTER

_CLIP_TOLERANCE_PX = 0.01
"""A box may extend this far beyond its image without a report, because annotations are rounded."""

_MIN_SIDE_PX = 0.01
"""A thinner box has no width left in float32."""

_AREA_TOLERANCE = 0.1
"""An annotated area that differs more from the mask's, relatively, is reported."""

_FLAGS = {"0": False, "false": False, "1": True, "true": True}


@dataclass(frozen=True)
class ValidatedObject:
    """A valid annotation: its box, x1 y1 x2 y2 inside the image, and its mask and keypoints.

    Args:
        annotation_id: our id of the annotation.
        label: 1..K.
        box: x1 y1 x2 y2, clipped to the image.
        polygons: the mask, unless it is an RLE.
        rle: the mask as COCO's compressed counts, unless it is polygons.
        iscrowd: whether this is a crowd region.
        area: of the mask, or of the box of an object without a mask, square pixels.
        overshoot: how far the box extended beyond the image before clipping, pixels.
        keypoints: flat x y visibility ..., in the same pixels as the box; empty if the dataset has
            no keypoints.
        points_outside: number of keypoints labeled outside the image, now unlabeled.
        corrections: reason and detail of what was corrected, except for the two counts above.
        source_id: the annotation's id as the dataset writes it, if ours differs.
    """

    annotation_id: int
    label: int
    box: Box
    polygons: Polygons
    rle: str | None
    iscrowd: bool
    area: float
    overshoot: float = 0.0
    keypoints: tuple[float, ...] = ()
    points_outside: int = 0
    corrections: tuple[tuple[str, str], ...] = ()
    source_id: str | None = None

    @property
    def num_keypoints(self) -> int:
        """Number of labeled keypoints, hidden or visible."""
        return sum(visibility > 0 for visibility in self.keypoints[2::3])

    @property
    def has_mask(self) -> bool:
        """Whether there are polygons or an RLE."""
        return bool(self.polygons) or self.rle is not None


def validate_annotation(
    annotation: Mapping[str, Any],
    size: ImageSize,
    labels: Mapping[int, int],
    keypoint_count: int = 0,
) -> ValidatedObject:
    """Validate one COCO annotation and clip its box to the image.

    Args:
        annotation: with ``id``, ``category_id``, ``bbox`` (x y w h), ``segmentation``, ...; a
            missing box is that of the mask, and the area is always that of the mask.
        size: size of its image.
        labels: category id -> label 1..K.
        keypoint_count: number of keypoints the dataset defines; an annotation without keypoints
            has them all unlabeled.

    Raises:
        InvalidRecordError: the annotation must be quarantined.
    """
    label = _validate_category(annotation, labels)
    iscrowd = _validate_flag(annotation.get("iscrowd"))
    given_box, given_area = _validate_numbers(annotation)
    mask = validate_mask(annotation.get("segmentation"), size)
    box = given_box or _box_of_mask(mask)
    clipped, overshoot = _clip_box(box, size)
    x, y, width, height = box
    check_mask_fits_box(mask, (x, y, x + width, y + height), size)
    # COCO's areas of crowd regions are not those of their masks, and no metric uses them.
    measured = Mask() if iscrowd else mask
    area = _measure_area(measured, width * height, size, given_area)
    keypoints, points_outside = _validate_keypoints(
        annotation.get("keypoints"), size, keypoint_count
    )
    corrections = []
    if mask.parts_dropped:
        corrections.append(("polygon part left out", f"{mask.parts_dropped} unusable"))
    if given_box is None:
        corrections.append(("box computed from the mask", ""))
    if given_area is not None and not math.isclose(
        given_area, area, rel_tol=_AREA_TOLERANCE, abs_tol=1
    ):
        corrections.append(("area corrected", f"annotated {given_area:g}, measured {area:g}"))
    return ValidatedObject(
        annotation_id=annotation["id"],
        label=label,
        box=clipped,
        polygons=mask.polygons,
        rle=mask.rle,
        iscrowd=iscrowd,
        area=area,
        overshoot=overshoot,
        keypoints=keypoints,
        points_outside=points_outside,
        corrections=tuple(corrections),
        source_id=annotation.get("source_id"),
    )


def _validate_category(annotation: Mapping[str, Any], labels: Mapping[int, int]) -> int:
    if "category_id" not in annotation:
        raise InvalidRecordError("malformed annotation", "category_id is missing")
    category = annotation["category_id"]
    if type(category) is not int or category not in labels:
        detail = f"category_id {category!r}"[:80] + " is not among the categories"
        raise InvalidRecordError("unknown category", detail)
    return labels[category]


def _validate_flag(value: Any) -> bool:
    """Return ``iscrowd`` as a bool; a missing one is False."""
    if value is None:
        return False
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().casefold() in _FLAGS:
        return _FLAGS[value.strip().casefold()]
    raise InvalidRecordError("malformed annotation", f"iscrowd must be 0 or 1; got {value!r}"[:120])


def _validate_numbers(annotation: Mapping[str, Any]) -> tuple[Box | None, float | None]:
    """Return the annotated box, x y w h, and area; None for what is missing."""
    given, area = annotation.get("bbox"), annotation.get("area")
    try:
        if isinstance(given, str):
            raise TypeError("characters are not numbers")
        box = None if given is None or given == [] else [float(value) for value in given]
        area = None if area is None else float(area)
        if box is not None:
            x, y, width, height = box
    except (TypeError, ValueError, OverflowError):
        detail = f"bbox must be 4 numbers and area a number; got bbox {given!r}, area {area!r}"
        raise InvalidRecordError("malformed annotation", detail[:120]) from None
    if box is None:
        return None, area
    if not all(map(math.isfinite, (*box, x + width, y + height, width * height))):
        raise InvalidRecordError("non-finite coordinates", f"bbox {box}")
    return (x, y, width, height), area


def _box_of_mask(mask: Mask) -> Box:
    """Return the box around a mask, x y w h."""
    if mask.bounds is None:
        raise InvalidRecordError("malformed annotation", "it has neither bbox nor segmentation")
    x1, y1, x2, y2 = mask.bounds
    return x1, y1, x2 - x1, y2 - y1


def _measure_area(mask: Mask, box_area: float, size: ImageSize, annotated: float | None) -> float:
    """Return the area of the mask; without one the annotated area if possible, or the box's."""
    usable = annotated if annotated is not None and math.isfinite(annotated) else None
    if mask.bounds is not None:
        return mask.area(size, usable)
    if usable is not None and 0 < usable <= (1 + _AREA_TOLERANCE) * box_area + 1:
        return usable
    return box_area


def _clip_box(box: Box, size: ImageSize) -> tuple[Box, float]:
    """Clip an x y w h box to the image; return x1 y1 x2 y2, and by how many pixels it overshot."""
    x, y, width, height = box
    if width < _MIN_SIDE_PX or height < _MIN_SIDE_PX:
        detail = f"bbox {list(box)}; width and height must be at least {_MIN_SIDE_PX} px"
        raise InvalidRecordError("degenerate box", detail)
    if x >= 0 and y >= 0 and max(x + width, y + height) <= 1 < min(size):
        detail = f"bbox {list(box)} is within the first pixel; expected pixels, not 0 to 1"
        raise InvalidRecordError("box in relative coordinates", detail)
    corners = (x, y, x + width, y + height)
    clipped = (
        max(x, 0.0),
        max(y, 0.0),
        min(x + width, float(size.width)),
        min(y + height, float(size.height)),
    )
    if clipped[2] - clipped[0] < _MIN_SIDE_PX or clipped[3] - clipped[1] < _MIN_SIDE_PX:
        detail = f"bbox {list(box)}, image {size.width}x{size.height}"
        raise InvalidRecordError("box outside its image", detail)
    overshoot = max(abs(a - b) for a, b in zip(corners, clipped, strict=True))
    return clipped, overshoot if overshoot > _CLIP_TOLERANCE_PX else 0.0


def _validate_keypoints(given: Any, size: ImageSize, count: int) -> tuple[tuple[float, ...], int]:
    """Return the flat keypoints, and how many were labeled outside the image, now unlabeled."""
    if not given or not count:
        return (0.0,) * (3 * count), 0
    try:
        numbers = [float(v) for v in given]
    except (TypeError, ValueError, OverflowError):
        raise InvalidRecordError("invalid keypoints", "not a flat list of numbers") from None
    if len(numbers) != 3 * count:
        detail = f"{len(numbers)} numbers; {count} keypoints need {3 * count}"
        raise InvalidRecordError("invalid keypoints", detail)
    if not all(map(math.isfinite, numbers)):
        raise InvalidRecordError("non-finite coordinates", "in the keypoints")
    kept: list[float] = []
    outside = 0
    for x, y, visibility in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        if visibility not in (0, 1, 2):
            detail = f"visibility {visibility:g} is not 0, 1 or 2"
            raise InvalidRecordError("invalid keypoints", detail)
        # COCO gives pixel indices, other tools pixel corners; accept the border pixels of both.
        inside = -PIXEL_CENTER <= x <= size.width and -PIXEL_CENTER <= y <= size.height
        outside += visibility > 0 and not inside
        labeled = visibility > 0 and inside
        kept += [x + PIXEL_CENTER, y + PIXEL_CENTER, visibility] if labeled else [0.0, 0.0, 0.0]
    return tuple(kept), outside
