"""Validate annotations and images: keep, correct or quarantine each, with a reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pycocotools.mask as coco_masks

from model.structures import ImageSize
from pipeline.shards.decode import DecodeError, decode_image
from pipeline.shards.keypoints import PIXEL_CENTER

_CLIP_TOLERANCE_PX = 0.01
"""A box may extend this far beyond its image without a report, because annotations are rounded."""

_MIN_SIDE_PX = 0.01
"""A thinner box has no width left in float32."""

Box = tuple[float, float, float, float]
Polygons = tuple[tuple[float, ...], ...]
"""Each polygon is a flat x y x y ..."""


@dataclass(frozen=True)
class Reject:
    """A line of quarantine.jsonl: a record that was left out, or corrected if ``mended``.

    ``reason`` is one of a few fixed phrases, so that it can be counted; ``detail`` is about this
    record.
    """

    record: Literal["image", "annotation"]
    file: str | None
    image_id: int | None
    annotation_id: int | None
    reason: str
    detail: str
    mended: bool = False


class InvalidRecordError(Exception):
    """An image or annotation must be quarantined; ``reason`` and ``detail`` as in `Reject`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class ValidatedObject:
    """A valid annotation: its box, x1 y1 x2 y2 inside the image, and its mask and keypoints.

    Args:
        annotation_id: as in the annotations.
        label: 1..K.
        box: x1 y1 x2 y2, clipped to the image.
        polygons: the mask, unless it is an RLE.
        rle: the mask as COCO's compressed counts, unless it is polygons.
        iscrowd: whether this is a crowd region.
        area: square pixels, as annotated.
        overshoot: how far the box extended beyond the image before clipping, pixels.
        keypoints: flat x y visibility ..., in the same pixels as the box; empty if the dataset has
            no keypoints.
        points_outside: number of keypoints labeled outside the image, now unlabeled.
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
        annotation: with ``id``, ``category_id``, ``bbox`` (x y w h), ``segmentation``, ...
        size: size of its image.
        labels: category id -> label 1..K.
        keypoint_count: number of keypoints the dataset defines; an annotation without keypoints
            has them all unlabeled.

    Raises:
        InvalidRecordError: the annotation must be quarantined.
    """
    try:
        category, box = annotation["category_id"], [float(v) for v in annotation["bbox"]]
        x, y, width, height = box
        area = float(annotation.get("area", width * height))
        iscrowd = bool(annotation.get("iscrowd", 0))
    except KeyError as error:
        raise InvalidRecordError("malformed annotation", f"{error} is missing") from None
    except (TypeError, ValueError):
        given = f"bbox {annotation['bbox']!r}, area {annotation.get('area')!r}"[:120]
        detail = f"bbox must be 4 numbers and area a number; got {given}"
        raise InvalidRecordError("malformed annotation", detail) from None
    if category not in labels:
        detail = f"category_id {category} is not among the categories"
        raise InvalidRecordError("unknown category", detail)
    if not all(map(math.isfinite, (*box, area))):
        raise InvalidRecordError("non-finite coordinates", f"bbox {box}, area {area}")
    clipped, overshoot = _clip_box((x, y, width, height), size)
    polygons, rle = _validate_mask(annotation.get("segmentation"), size)
    keypoints, points_outside = _validate_keypoints(
        annotation.get("keypoints"), size, keypoint_count
    )
    return ValidatedObject(
        annotation_id=annotation["id"],
        label=labels[category],
        box=clipped,
        polygons=polygons,
        rle=rle,
        iscrowd=iscrowd,
        area=area,
        overshoot=overshoot,
        keypoints=keypoints,
        points_outside=points_outside,
    )


def _clip_box(box: Box, size: ImageSize) -> tuple[Box, float]:
    """Clip an x y w h box to the image; return x1 y1 x2 y2, and by how many pixels it overshot."""
    x, y, width, height = box
    if width < _MIN_SIDE_PX or height < _MIN_SIDE_PX:
        detail = f"bbox {list(box)}; width and height must be at least {_MIN_SIDE_PX} px"
        raise InvalidRecordError("degenerate box", detail)
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


def _validate_mask(segmentation: Any, size: ImageSize) -> tuple[Polygons, str | None]:
    """Return (polygons, None) or ((), RLE); ((), None) if there is no mask."""
    if not segmentation:
        return (), None
    if isinstance(segmentation, dict):
        return (), _validate_rle(segmentation, size)
    try:
        polygons = tuple(tuple(float(v) for v in polygon) for polygon in segmentation)
    except (TypeError, ValueError):
        detail = "segmentation is not a list of lists of numbers"
        raise InvalidRecordError("invalid polygon", detail) from None
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            detail = f"{len(polygon)} numbers; a polygon needs 3 or more x y pairs"
            raise InvalidRecordError("invalid polygon", detail)
        if not all(map(math.isfinite, polygon)):
            raise InvalidRecordError("non-finite coordinates", "in a polygon")
    return polygons, None


def _validate_rle(segmentation: Mapping[str, Any], size: ImageSize) -> str:
    """Return COCO's compressed counts of a compressed or uncompressed RLE."""
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        detail = (
            f"mask size {segmentation.get('size')} differs from image size {list(size)} "
            "(height, width)"
        )
        raise InvalidRecordError("invalid RLE mask", detail)
    try:
        if isinstance(counts, list):
            if sum(counts) != size.height * size.width or min(counts, default=-1) < 0:
                detail = "run lengths are negative or do not add up to the image's pixels"
                raise InvalidRecordError("invalid RLE mask", detail)
            counts = coco_masks.frPyObjects(dict(segmentation), *size)["counts"].decode("ascii")
        coco_masks.decode({"size": list(size), "counts": counts})
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidRecordError("invalid RLE mask", str(error)) from None
    return str(counts)


def _validate_keypoints(given: Any, size: ImageSize, count: int) -> tuple[tuple[float, ...], int]:
    """Return the flat keypoints, and how many were labeled outside the image, now unlabeled."""
    if not given or not count:
        return (0.0,) * (3 * count), 0
    try:
        numbers = [float(v) for v in given]
    except (TypeError, ValueError):
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


def validate_image(data: bytes, size: ImageSize) -> None:
    """Check that an encoded image is complete and of the annotated size.

    Args:
        data: the encoded image.
        size: the image size according to its annotations.

    Raises:
        InvalidRecordError: the image must be quarantined.
    """
    try:
        height, width = decode_image(data).shape[:2]
    except DecodeError as error:
        raise InvalidRecordError("truncated or unreadable image", str(error)) from None
    if (height, width) != size:
        detail = f"the image is {width}x{height}, its annotations say {size.width}x{size.height}"
        raise InvalidRecordError("image size differs from annotations", detail)
