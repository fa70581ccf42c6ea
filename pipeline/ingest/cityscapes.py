"""Cityscapes as a `Listing`: a JSON file of labeled polygons per street image.

Cordts et al. 2016. Polygons are listed from back to front and painted in that order, with Pillow as
in the dataset's own scripts; an object's mask is the part of its polygon that stays visible. A
label that ends in "group" is a crowd region.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.identifiers import number_names
from pipeline.ingest.instance_masks import mask_annotation
from pipeline.ingest.listing import Annotation, ImageRecord, Listing, read_files
from pipeline.ingest.rejects import InvalidRecordError, Reject

_IDS = {
    **{"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28},
    **{"train": 31, "motorcycle": 32, "bicycle": 33},
}
"""Ids of the classes with instance labels, as Cityscapes numbers them."""

_BACKGROUND = frozenset(
    (
        *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
        *("ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence"),
        *("guard rail", "bridge", "tunnel", "pole", "traffic light", "traffic sign"),
        *("vegetation", "terrain", "sky", "caravan", "trailer"),
    )
)
"""Labels that are not detection classes but occlude the objects behind them."""

_NOT_PAINTED = "license plate"  # part of its car, so it occludes nothing

_SUFFIX = "_gtFine_polygons.json"
_MAX_SIDE = 2**31 - 1


def read_cityscapes(root_url: str, image_set: str) -> Listing:
    """Read the fine annotations of Cityscapes.

    Args:
        root_url: the folder that holds gtFine and leftImg8bit.
        image_set: "train" or "val".

    Raises:
        StorageError: there are no annotations. A damaged file is not an error; its image is
            quarantined.
    """
    root_url = storage.absolute(root_url)
    folder = storage.join(root_url, "gtFine", image_set)
    urls = storage.list_files(folder, (_SUFFIX,))
    if not urls:
        raise storage.StorageError(
            f"{folder}: no files *{_SUFFIX} below this folder; check root and set"
        )
    images_url = storage.join(root_url, "leftImg8bit", image_set)
    images: list[ImageRecord] = []
    rejects: list[Reject] = []
    fingerprint = hashlib.sha256()
    names = [url[len(folder) : -len(_SUFFIX)].strip("/") for url in urls]
    ids = _number_images(names)
    for name, url, data in zip(names, urls, read_files(urls), strict=True):
        image_id = ids[name]
        fingerprint.update(hashlib.sha256(name.encode()).digest())
        fingerprint.update(hashlib.sha256(data or b"").digest())
        try:
            image, object_rejects = _read_image(data, name, image_id, url, images_url)
        except InvalidRecordError as error:
            file = f"{name}{_SUFFIX}"
            rejects.append(Reject("image", file, image_id, None, error.reason, error.detail))
            continue
        images.append(image)
        rejects += object_rejects
    objects_rejected = sum(reject.record == "annotation" for reject in rejects)
    return Listing(
        name=folder,
        fingerprint=fingerprint.digest(),
        categories=tuple(Category(number, name) for name, number in _IDS.items()),
        images=tuple(images),
        rejects=tuple(rejects),
        images_listed=len(urls),
        annotations_listed=sum(len(image.annotations) for image in images) + objects_rejected,
    )


def _number_images(names: Sequence[str]) -> dict[str, int]:
    """Return an id for each image: that of the file name, or of the whole path if it repeats."""
    files = Counter(PurePosixPath(name).name for name in names)
    short = {name: PurePosixPath(name).name for name in names}
    unique = {name: file if files[file] == 1 else name for name, file in short.items()}
    ids = number_names(list(unique.values()))
    return {name: ids[key] for name, key in unique.items()}


def _read_image(
    data: bytes | None, name: str, image_id: int, url: str, images_url: str
) -> tuple[ImageRecord, list[Reject]]:
    """Return the image of a JSON file with its usable objects, and the unusable ones."""
    size, objects = _parse(data)
    file_name = f"{name}_leftImg8bit.png"
    annotations: list[Annotation] = []
    rejects: list[Reject] = []
    for number, item in enumerate(objects, 1):
        try:
            annotation = _read_object(item, number, size)
        except InvalidRecordError as error:
            ids = (file_name, image_id, number)
            rejects.append(Reject("annotation", *ids, error.reason, error.detail))
            continue
        annotations += [] if annotation is None else [annotation]
    masks = CityscapesMasks(url)
    return ImageRecord(image_id, file_name, size, tuple(annotations), images_url, masks), rejects


@dataclass(frozen=True)
class CityscapesMasks:
    """The masks of one image, painted from its polygons.

    Args:
        url: the image's JSON file.
    """

    url: str

    def add_masks(self, image: ImageRecord) -> tuple[tuple[Annotation, ...], tuple[Reject, ...]]:
        """Return the annotations with the boxes and masks of their visible parts.

        Raises:
            InvalidRecordError: the file is unreadable.
            StorageError: the store cannot be read.
        """
        _, objects = _parse(storage.read_bytes(self.url))
        if image.size is None:
            raise ValueError(f"{image.file_name} is not loaded: it has no size")
        canvas = Image.new("I", (image.size.width, image.size.height), 0)
        draw = ImageDraw.Draw(canvas)
        for number, item in enumerate(objects, 1):
            if _is_painted(item, image.size):
                draw.polygon([tuple(point) for point in item["polygon"]], fill=number)
        painted = np.asarray(canvas)
        annotations: list[Annotation] = []
        rejects: list[Reject] = []
        for annotation in image.annotations:
            number = annotation["id"]
            polygon = np.asarray(objects[number - 1]["polygon"], dtype=np.float64)
            left, top = np.maximum(np.floor(polygon.min(0)), 0).astype(int).tolist()
            right, bottom = (np.maximum(np.ceil(polygon.max(0)), 0).astype(int) + 1).tolist()
            pixels = painted[top:bottom, left:right] == number
            if pixels.any():
                annotations.append(annotation | mask_annotation(pixels, left, top, image.size))
            else:
                ids = (image.file_name, image.image_id, number)
                detail = "covered by later polygons, or outside the image"
                rejects.append(Reject("annotation", *ids, "object not visible", detail))
        return tuple(annotations), tuple(rejects)


def _parse(data: bytes | None) -> tuple[ImageSize | None, list[Any]]:
    """Return the image size, None if it is missing or zero, and the objects that are not deleted.

    The objects are not yet validated.
    """
    reason = "unreadable annotation file"
    try:
        document = json.loads(data or b"")
        sides = [document.get(key) or 0 for key in ("imgHeight", "imgWidth")]
        kept = [
            item
            for item in document["objects"]
            if not (isinstance(item, dict) and item.get("deleted"))
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        detail = f"{type(error).__name__}: {error}"[:200]
        raise InvalidRecordError(reason, detail) from None
    if not all(type(side) is int and 0 <= side <= _MAX_SIDE for side in sides):
        raise InvalidRecordError(reason, f"imgHeight and imgWidth are {sides}"[:200])
    return ImageSize(*sides) if all(sides) else None, kept


def _read_object(item: Any, number: int, size: ImageSize | None) -> Annotation | None:
    """Return the annotation, without box and mask; None if its label is not a detection class."""
    if not isinstance(item, dict) or not isinstance(item.get("label"), str):
        raise InvalidRecordError("malformed annotation", repr(item)[:80])
    label = item["label"]
    name = label.removesuffix("group")
    if name in _BACKGROUND or name == _NOT_PAINTED:
        return None
    if name not in _IDS:
        raise InvalidRecordError("unknown category", f"{label[:40]!r} is not a Cityscapes label")
    # If the file has no size, that of the image decides when the masks are painted.
    if not _is_outline(item.get("polygon"), size or ImageSize(_MAX_SIDE, _MAX_SIDE)):
        detail = "expected 3 or more points [x, y], none far outside the image"
        raise InvalidRecordError("invalid polygon", detail)
    return {"id": number, "category_id": _IDS[name], "iscrowd": int(name != label)}


def _is_painted(item: Any, size: ImageSize) -> bool:
    """Whether an object, of any label, hides those that are listed before it."""
    return (
        isinstance(item, dict)
        and item.get("label") != _NOT_PAINTED
        and _is_outline(item.get("polygon"), size)
    )


def _is_outline(polygon: Any, size: ImageSize) -> bool:
    """Whether there are three or more points, none so far outside that painting is slow."""
    limit = 10 * max(size)
    return (
        isinstance(polygon, list)
        and len(polygon) >= 3
        and all(
            isinstance(point, list)
            and len(point) == 2
            and all(type(v) in (int, float) and abs(v) <= limit for v in point)
            for point in polygon
        )
    )
