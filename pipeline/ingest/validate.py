"""Judge annotations and images before they enter a shard: what is kept, mended or quarantined."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pycocotools.mask as coco_masks

from model.structures import ImageSize
from pipeline.shards.decode import DecodeError, decode_image
from pipeline.shards.keypoints import PIXEL_CENTER

_CLIP_TOLERANCE = 0.01
"""Pixels that a box may overshoot its image without a word: annotations are rounded."""

_LEAST_SIDE = 0.01
"""Pixels; a thinner box has no width left in float32."""


@dataclass(frozen=True)
class Reject:
    """A record that was left out, or mended (``mended`` true), and why.

    ``reason`` is one of a few fixed phrases, to be counted; ``detail`` says more about this one.
    """

    record: Literal["image", "annotation"]
    file: str | None
    image_id: int | None
    annotation_id: int | None
    reason: str
    detail: str
    mended: bool = False


@dataclass(frozen=True)
class ValidatedObject:
    """One good annotation: box x1 y1 x2 y2 inside the image, mask as polygons or as RLE counts.

    ``keypoints`` is flat x y visibility, in the same pixels as the box; empty where the data set
    names none. ``points_outside`` of them were labelled outside the image and are labelled no more.
    """

    annotation_id: int
    label: int
    box: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...]
    rle: str | None
    iscrowd: bool
    area: float
    overshoot: float = 0.0
    keypoints: tuple[float, ...] = ()
    points_outside: int = 0

    @property
    def labelled_points(self) -> int:
        """How many keypoints are labelled, hidden or visible."""
        return sum(visibility > 0 for visibility in self.keypoints[2::3])

    @property
    def has_mask(self) -> bool:
        """Whether an outline or an RLE was given."""
        return bool(self.polygons) or self.rle is not None


class AnnotationError(ValueError):
    """The annotation cannot be used; ``reason`` is a phrase to be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def validate_annotation(
    annotation: Mapping[str, Any],
    size: ImageSize,
    labels: Mapping[int, int],
    keypoint_count: int = 0,
) -> ValidatedObject:
    """Check one COCO annotation and clip its box to the image.

    Args:
        annotation: with ``id``, ``category_id``, ``bbox`` (x y w h), ``segmentation``, ...
        size: of its image.
        labels: category id -> label 1..K.
        keypoint_count: keypoints that the data set names; an annotation without any has none
            labelled.

    Raises:
        AnnotationError: it has to be quarantined.
    """
    try:
        category, box = annotation["category_id"], [float(v) for v in annotation["bbox"]]
        x, y, width, height = box
        area = float(annotation.get("area", width * height))
        iscrowd = bool(annotation.get("iscrowd", 0))
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError("malformed annotation", f"{type(error).__name__}: {error}") from None
    if category not in labels:
        raise AnnotationError("unknown category", f"category {category}")
    if not all(map(math.isfinite, (*box, area))):
        raise AnnotationError("non-finite coordinates", f"bbox {box}, area {area}")
    if width < _LEAST_SIDE or height < _LEAST_SIDE:
        raise AnnotationError("degenerate box", f"bbox {box}")
    clipped = (
        max(x, 0.0),
        max(y, 0.0),
        min(x + width, float(size.width)),
        min(y + height, float(size.height)),
    )
    if clipped[2] - clipped[0] < _LEAST_SIDE or clipped[3] - clipped[1] < _LEAST_SIDE:
        raise AnnotationError("box outside its image", f"bbox {box}, image {size[1]}x{size[0]}")
    overshoot = max(abs(a - b) for a, b in zip((x, y, x + width, y + height), clipped, strict=True))
    polygons, rle = _judge_mask(annotation.get("segmentation"), size)
    keypoints, points_outside = _judge_keypoints(annotation.get("keypoints"), size, keypoint_count)
    return ValidatedObject(
        annotation_id=annotation["id"],
        label=labels[category],
        box=clipped,
        polygons=polygons,
        rle=rle,
        iscrowd=iscrowd,
        area=area,
        overshoot=overshoot if overshoot > _CLIP_TOLERANCE else 0.0,
        keypoints=keypoints,
        points_outside=points_outside,
    )


def _judge_mask(
    segmentation: Any, size: ImageSize
) -> tuple[tuple[tuple[float, ...], ...], str | None]:
    """Polygons and no RLE, or no polygons and an RLE, or neither where none was given."""
    if not segmentation:
        return (), None
    if isinstance(segmentation, dict):
        return (), _judge_rle(segmentation, size)
    try:
        polygons = tuple(tuple(float(v) for v in polygon) for polygon in segmentation)
    except (TypeError, ValueError):
        raise AnnotationError("bad outline", "not lists of numbers") from None
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError("bad outline", f"a polygon of {len(polygon)} numbers")
        if not all(map(math.isfinite, polygon)):
            raise AnnotationError("non-finite coordinates", "in a polygon")
    return polygons, None


def _judge_rle(segmentation: Mapping[str, Any], size: ImageSize) -> str:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        detail = f"of size {segmentation.get('size')} in an image of {list(size)}"
        raise AnnotationError("bad run-length mask", detail)
    try:
        if isinstance(counts, list):
            if sum(counts) != size.height * size.width or min(counts, default=-1) < 0:
                raise AnnotationError("bad run-length mask", "runs do not fill the image")
            counts = coco_masks.frPyObjects(dict(segmentation), *size)["counts"].decode("ascii")
        coco_masks.decode({"size": list(size), "counts": counts})
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError("bad run-length mask", str(error)) from None
    return str(counts)


def _judge_keypoints(given: Any, size: ImageSize, count: int) -> tuple[tuple[float, ...], int]:
    """The points, flat, and how many were labelled outside the image and are not any more."""
    if not given or not count:
        return (0.0,) * (3 * count), 0
    try:
        numbers = [float(v) for v in given]
    except (TypeError, ValueError):
        raise AnnotationError("bad keypoints", "not a list of numbers") from None
    if len(numbers) != 3 * count:
        detail = f"{len(numbers)} numbers for {count} keypoints of 3 each"
        raise AnnotationError("bad keypoints", detail)
    if not all(map(math.isfinite, numbers)):
        raise AnnotationError("non-finite coordinates", "in the keypoints")
    kept: list[float] = []
    outside = 0
    for x, y, visibility in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        if visibility not in (0, 1, 2):
            raise AnnotationError("bad keypoints", f"a visibility of {visibility:g}, not 0, 1 or 2")
        # COCO counts pixels, others their corners: either's border still belongs to the image.
        inside = -PIXEL_CENTER <= x <= size.width and -PIXEL_CENTER <= y <= size.height
        outside += visibility > 0 and not inside
        labelled = visibility > 0 and inside
        kept += [x + PIXEL_CENTER, y + PIXEL_CENTER, visibility] if labelled else [0.0, 0.0, 0.0]
    return tuple(kept), outside


def validate_image(data: bytes, size: ImageSize) -> tuple[str, str] | None:
    """Why an encoded image cannot be used, as (reason, detail); None for a good one.

    Args:
        data: the encoded image.
        size: what its annotations take it to be.
    """
    try:
        height, width = decode_image(data).shape[:2]
    except DecodeError as error:
        return "truncated or unreadable image", str(error)
    if (height, width) != size:
        detail = f"the image is {width}x{height}, its annotations say {size.width}x{size.height}"
        return "image size differs from its annotations", detail
    return None
