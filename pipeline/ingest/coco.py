"""COCO instances JSON: read into records per image, and rebuilt from shards for the referee."""

import json
from collections.abc import Mapping
from typing import Any

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.listing import ImageRecord, Listing
from pipeline.ingest.validate import Reject
from pipeline.shards.keypoints import list_keypoints
from pipeline.storage import StorageError


def read_coco(annotations_url: str, images_url: str, image_ids_url: str | None = None) -> Listing:
    """What a COCO instances file lists.

    Args:
        annotations_url: COCO instances JSON.
        images_url: folder its file names are relative to.
        image_ids_url: list of the ids to keep, JSON or text; the other images are not listed.

    Raises:
        StorageError: a file is missing, or not what it should be.
    """
    data = storage.read_bytes(annotations_url)
    if image_ids_url is None:
        return parse_coco(data, annotations_url, images_url)
    only = _read_image_ids(image_ids_url)
    listing = parse_coco(data, annotations_url, images_url, frozenset(only))
    found = {image.image_id for image in listing.images}
    found |= {reject.image_id for reject in listing.rejects if reject.image_id is not None}
    if strange := sorted(set(only) - found):
        raise StorageError(
            f"{image_ids_url}: {len(strange)} of {len(only)} ids are not in {annotations_url}, "
            f"such as {strange[:5]}"
        )
    return listing


def _read_image_ids(url: str) -> list[int]:
    """A JSON list of integers, or integers with white space between them."""
    text = storage.read_bytes(url)
    try:
        ids = json.loads(text) if text.lstrip().startswith(b"[") else list(map(int, text.split()))
    except ValueError:
        ids = None
    if not ids or not all(type(number) is int for number in ids):
        raise StorageError(
            f"{url}: not a list of image ids; write a JSON list of integers, or one a line"
        )
    return ids


def parse_coco(
    data: bytes, url: str, images_url: str, only: frozenset[int] | None = None
) -> Listing:
    """Group the records of a COCO instances file by image.

    Args:
        data: the JSON text.
        url: where it came from, for error texts.
        images_url: folder its file names are relative to.
        only: the image ids to keep; None keeps all.

    Raises:
        StorageError: not JSON, or without images, annotations or categories.
    """
    try:
        document = json.loads(data)
        images, annotations = document["images"], document["annotations"]
        categories = sorted(Category(int(c["id"]), str(c["name"])) for c in document["categories"])
        keypoints = list_keypoints(document["categories"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{url}: not a COCO instances file ({type(error).__name__}: {error}); it needs the "
            "lists images, annotations and categories"
        ) from error
    if len({category.id for category in categories}) != len(categories) or not categories:
        raise StorageError(f"{url}: categories must have unique ids, and there must be some")
    if only is not None:
        images, annotations = _restrict(images, annotations, only)
    rejects: list[Reject] = []
    by_image: dict[int, list[dict[str, Any]]] = {}
    records: dict[int, Mapping[str, Any]] = {}
    for image in images:
        reject = _judge_image_record(image, records)
        if reject is None:
            records[image["id"]] = image
            by_image[image["id"]] = []
        else:
            rejects.append(reject)
    seen: set[int] = set()
    for annotation in annotations:
        reject = _judge_ids(annotation, records, seen)
        if reject is None:
            seen.add(annotation["id"])
            by_image[annotation["image_id"]].append(annotation)
        else:
            rejects.append(reject)
    return Listing(
        url,
        data if only is None else data + json.dumps(sorted(only)).encode(),
        tuple(categories),
        tuple(
            ImageRecord(
                image_id,
                image["file_name"],
                ImageSize(int(image["height"]), int(image["width"])),
                tuple(by_image[image_id]),
                images_url,
            )
            for image_id, image in records.items()
        ),
        tuple(rejects),
        len(images),
        len(annotations),
        keypoints=keypoints,
    )


def _restrict(
    images: list[Any], annotations: list[Any], only: frozenset[int]
) -> tuple[list[Any], list[Any]]:
    """The records of some images; malformed ones stay, to be named."""
    left_out = {
        image["id"]
        for image in images
        if isinstance(image, dict) and type(image.get("id")) is int and image["id"] not in only
    }

    def stays(record: Any, key: str) -> bool:
        number = record.get(key) if isinstance(record, dict) else None
        return type(number) is not int or number not in left_out

    return (
        [image for image in images if stays(image, "id")],
        [annotation for annotation in annotations if stays(annotation, "image_id")],
    )


def _judge_image_record(image: Any, records: Mapping[int, Any]) -> Reject | None:
    fields = {"id": int, "file_name": str, "height": int, "width": int}
    if not isinstance(image, dict):
        return Reject("image", None, None, None, "malformed image record", repr(image)[:80])
    wrong = [name for name, kind in fields.items() if type(image.get(name)) is not kind]
    if wrong:
        detail = f"{', '.join(wrong)} missing or of a wrong type"
        name = image.get("file_name") if "file_name" not in wrong else None
        return Reject("image", name, None, None, "malformed image record", detail)
    if image["id"] in records:
        other = records[image["id"]]["file_name"]
        detail = f"the id belongs to {other}"
        return Reject("image", image["file_name"], image["id"], None, "duplicate image id", detail)
    return None


def _judge_ids(annotation: Any, records: Mapping[int, Any], seen: set[int]) -> Reject | None:
    if not isinstance(annotation, dict) or type(annotation.get("id")) is not int:
        return Reject("annotation", None, None, None, "malformed annotation", repr(annotation)[:80])
    number, image_id = annotation["id"], annotation.get("image_id")
    image = records.get(image_id) if type(image_id) is int else None
    if image is None:
        reason, detail = "annotation of an unlisted image", f"image {image_id}"
        return Reject("annotation", None, None, number, reason, detail)
    if number in seen:
        name = image["file_name"]
        return Reject("annotation", name, image_id, number, "duplicate annotation id", "")
    return None
