"""Cityscapes: a JSON file of labelled polygons for each image of a street.

Cordts et al. 2016. Polygons are listed from the farthest to the nearest, each over the ones before
it, so an object's mask is what is left of its polygon when all are painted in that order, by
Pillow as in the data set's own scripts. A class that ends in "group" is a crowd region.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.instance_masks import mask_annotation
from pipeline.ingest.listing import Annotation, ImageRecord, Listing, image_id_from_name, read_files
from pipeline.ingest.validate import AnnotationError, Reject

_IDS = {
    **{"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28},
    **{"train": 31, "motorcycle": 32, "bicycle": 33},
}
"""The classes whose objects are told apart, with the data set's own numbers."""

_SURROUNDINGS = frozenset(
    (
        *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
        *("ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence"),
        *("guard rail", "bridge", "tunnel", "pole", "traffic light", "traffic sign"),
        *("vegetation", "terrain", "sky", "caravan", "trailer"),
    )
)
"""What hides objects behind it and is not detected."""

_NOT_PAINTED = "license plate"  # it lies on its car and hides nothing

_SUFFIX = "_gtFine_polygons.json"


def read_cityscapes(root_url: str, image_set: str) -> Listing:
    """What the fine annotations of Cityscapes list.

    Args:
        root_url: the folder that holds gtFine and leftImg8bit.
        image_set: "train" or "val".

    Raises:
        StorageError: there are no annotations; a damaged file is no error but a reject.
    """
    folder = storage.join(root_url, "gtFine", image_set)
    urls = storage.list_files(folder, (_SUFFIX,))
    if not urls:
        raise storage.StorageError(f"{folder}: no files *{_SUFFIX} there; are root and set right?")
    images_url = storage.join(root_url, "leftImg8bit", image_set)
    images: list[ImageRecord] = []
    rejects: list[Reject] = []
    fingerprint = hashlib.sha256()
    for url, data in zip(urls, read_files(urls), strict=True):
        name = url[len(folder) : -len(_SUFFIX)].strip("/")
        fingerprint.update(hashlib.sha256(name.encode()).digest())
        fingerprint.update(hashlib.sha256(data or b"").digest())
        try:
            image, refused = _read_image(data, name, url, images_url)
        except AnnotationError as error:
            names = (f"{name}{_SUFFIX}", image_id_from_name(PurePosixPath(name).name), None)
            rejects.append(Reject("image", *names, error.reason, error.detail))
            continue
        images.append(image)
        rejects += refused
    refused_objects = sum(reject.record == "annotation" for reject in rejects)
    return Listing(
        name=folder,
        fingerprint=fingerprint.digest(),
        categories=tuple(Category(number, name) for name, number in _IDS.items()),
        images=tuple(images),
        rejects=tuple(rejects),
        images_listed=len(urls),
        annotations_listed=sum(len(image.annotations) for image in images) + refused_objects,
    )


def _read_image(
    data: bytes | None, name: str, url: str, images_url: str
) -> tuple[ImageRecord, list[Reject]]:
    """The image that a JSON file describes, and the objects in it that cannot be used."""
    size, objects = _parse(data)
    image_id, file_name = image_id_from_name(PurePosixPath(name).name), f"{name}_leftImg8bit.png"
    annotations: list[Annotation] = []
    refused: list[Reject] = []
    for number, each in enumerate(objects, 1):
        try:
            annotation = _read_object(each, number, size)
        except AnnotationError as error:
            names = (file_name, image_id, number)
            refused.append(Reject("annotation", *names, error.reason, error.detail))
            continue
        annotations += [] if annotation is None else [annotation]
    polygons = CityscapesPolygons(url)
    record = ImageRecord(image_id, file_name, size, tuple(annotations), images_url, polygons)
    return record, refused


@dataclass(frozen=True)
class CityscapesPolygons:
    """The polygons of one image, painted over each other when its row is written."""

    url: str

    def complete(self, image: ImageRecord) -> tuple[tuple[Annotation, ...], tuple[Reject, ...]]:
        """The annotations with boxes and masks of what can be seen of them.

        Raises:
            AnnotationError: the file cannot be read.
            StorageError: the store does not answer.
        """
        _, objects = _parse(storage.read_bytes(self.url))
        canvas = Image.new("I", (image.size.width, image.size.height), 0)
        pen = ImageDraw.Draw(canvas)
        for number, each in enumerate(objects, 1):
            if each["label"] != _NOT_PAINTED and _is_outline(each["polygon"], image.size):
                pen.polygon([tuple(point) for point in each["polygon"]], fill=number)
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
                names = (image.file_name, image.image_id, number)
                detail = "behind later polygons, or outside the image"
                rejects.append(Reject("annotation", *names, "nothing of it is seen", detail))
        return tuple(annotations), tuple(rejects)


def _parse(data: bytes | None) -> tuple[ImageSize, list[dict[str, Any]]]:
    """Size of the image and its objects, without the deleted ones."""
    reason = "unreadable annotation file"
    try:
        document = json.loads(data or b"")
        height, width, objects = (document[key] for key in ("imgHeight", "imgWidth", "objects"))
        kept = [each for each in objects if not each.get("deleted")]
        whole = all(
            isinstance(each["label"], str) and isinstance(each["polygon"], list) for each in kept
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnnotationError(reason, f"{type(error).__name__}: {error}") from None
    if type(height) is not int or type(width) is not int or not whole:
        raise AnnotationError(reason, "a size, label or polygon of a wrong type")
    return ImageSize(height, width), kept


def _read_object(each: dict[str, Any], number: int, size: ImageSize) -> Annotation | None:
    """The annotation, still without box and mask; None for what is not detected."""
    label = each["label"]
    name = label.removesuffix("group")
    if name in _SURROUNDINGS or name == _NOT_PAINTED:
        return None
    if name not in _IDS:
        raise AnnotationError("unknown category", f"label {label[:40]!r}")
    if not _is_outline(each["polygon"], size):
        raise AnnotationError("bad outline", f"{len(each['polygon'])} points, or far outside")
    return {"id": number, "category_id": _IDS[name], "iscrowd": int(name != label)}


def _is_outline(polygon: list[Any], size: ImageSize) -> bool:
    """Whether these are at least three points, none so far out that painting would take long."""
    far = 10 * max(size)
    return len(polygon) >= 3 and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(v) in (int, float) and abs(v) <= far for v in point)
        for point in polygon
    )
