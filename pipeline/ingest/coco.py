"""COCO instances JSON as a `Listing`."""

import json
from collections.abc import Mapping
from typing import Any

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.listing import ImageRecord, Listing
from pipeline.ingest.validate import Reject
from pipeline.shards.keypoints import read_keypoint_set

_IMAGE_FIELDS = {"id": int, "file_name": str, "height": int, "width": int}


def read_coco(annotations_url: str, images_url: str, image_ids_url: str | None = None) -> Listing:
    """Read a COCO instances file.

    Args:
        annotations_url: COCO instances JSON.
        images_url: folder its file names are relative to.
        image_ids_url: ids of the images to keep, as JSON or text; all others are left out.

    Raises:
        StorageError: a file is missing, unreadable or not in the expected format.
    """
    data = storage.read_bytes(annotations_url)
    if image_ids_url is None:
        return parse_coco(data, annotations_url, images_url)
    only = _read_image_ids(image_ids_url)
    listing = parse_coco(data, annotations_url, images_url, frozenset(only))
    listed = {image.image_id for image in listing.images}
    listed |= {reject.image_id for reject in listing.rejects if reject.image_id is not None}
    if missing := sorted(set(only) - listed):
        raise storage.StorageError(
            f"{image_ids_url}: {len(missing)} of {len(only)} image ids are not in "
            f"{annotations_url}, such as {missing[:5]}"
        )
    return listing


def _read_image_ids(url: str) -> list[int]:
    """Read a JSON list of integers, or integers separated by white space."""
    text = storage.read_bytes(url)
    try:
        ids = json.loads(text) if text.lstrip().startswith(b"[") else list(map(int, text.split()))
    except ValueError:
        ids = None
    if not ids or not all(type(number) is int for number in ids):
        raise storage.StorageError(
            f"{url}: not a list of image ids; write a JSON list of integers, or one id per line"
        )
    return ids


def parse_coco(
    data: bytes, url: str, images_url: str, only: frozenset[int] | None = None
) -> Listing:
    """Group the records of a COCO instances file by image.

    Args:
        data: the JSON text.
        url: where it came from, for error messages.
        images_url: folder its file names are relative to.
        only: ids of the images to keep; None keeps all.

    Raises:
        StorageError: not JSON, or without images, annotations or categories.
    """
    try:
        document = json.loads(data)
        images, annotations = document["images"], document["annotations"]
        categories = sorted(Category(int(c["id"]), str(c["name"])) for c in document["categories"])
        keypoints = read_keypoint_set(document["categories"])
    except (ValueError, KeyError, TypeError) as error:
        raise storage.StorageError(
            f"{url}: not a COCO instances file ({type(error).__name__}: {error}); it needs the "
            "lists images, annotations and categories"
        ) from error
    if len({category.id for category in categories}) != len(categories) or not categories:
        raise storage.StorageError(f"{url}: needs at least one category, and unique category ids")
    if only is not None:
        images, annotations = _keep_images(images, annotations, only)
    records, rejects = _index_images(images)
    by_image, annotation_rejects = _group_annotations(annotations, records)
    return Listing(
        name=url,
        fingerprint=data if only is None else data + json.dumps(sorted(only)).encode(),
        categories=tuple(categories),
        images=tuple(
            ImageRecord(
                image_id,
                image["file_name"],
                ImageSize(image["height"], image["width"]),
                tuple(by_image[image_id]),
                images_url,
            )
            for image_id, image in records.items()
        ),
        rejects=(*rejects, *annotation_rejects),
        images_listed=len(images),
        annotations_listed=len(annotations),
        keypoints=keypoints,
    )


def _keep_images(
    images: list[Any], annotations: list[Any], only: frozenset[int]
) -> tuple[list[Any], list[Any]]:
    """Keep the records of images in ``only``, and malformed ones, which are rejected later."""
    left_out = {
        image["id"]
        for image in images
        if isinstance(image, dict) and type(image.get("id")) is int and image["id"] not in only
    }

    def is_kept(record: Any, key: str) -> bool:
        image_id = record.get(key) if isinstance(record, dict) else None
        return type(image_id) is not int or image_id not in left_out

    return (
        [image for image in images if is_kept(image, "id")],
        [annotation for annotation in annotations if is_kept(annotation, "image_id")],
    )


def _index_images(images: list[Any]) -> tuple[dict[int, Mapping[str, Any]], list[Reject]]:
    """Return the valid image records by id; reject the others."""
    records: dict[int, Mapping[str, Any]] = {}
    rejects = []
    for image in images:
        reject = _validate_image_record(image, records)
        if reject is None:
            records[image["id"]] = image
        else:
            rejects.append(reject)
    return records, rejects


def _group_annotations(
    annotations: list[Any], records: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, list[dict[str, Any]]], list[Reject]]:
    """Return the annotations of each image id; reject those without a valid image or id."""
    by_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in records}
    rejects = []
    seen: set[int] = set()
    for annotation in annotations:
        reject = _validate_ids(annotation, records, seen)
        if reject is None:
            seen.add(annotation["id"])
            by_image[annotation["image_id"]].append(annotation)
        else:
            rejects.append(reject)
    return by_image, rejects


def _validate_image_record(image: Any, records: Mapping[int, Any]) -> Reject | None:
    reason = "malformed image record"
    if not isinstance(image, dict):
        return Reject("image", None, None, None, reason, repr(image)[:80])
    wrong = [name for name, kind in _IMAGE_FIELDS.items() if type(image.get(name)) is not kind]
    if wrong:
        detail = f"{', '.join(wrong)} missing or of the wrong type"
        file_name = image.get("file_name") if "file_name" not in wrong else None
        return Reject("image", file_name, None, None, reason, detail)
    if image["id"] in records:
        detail = f"{records[image['id']]['file_name']} has the same id"
        return Reject("image", image["file_name"], image["id"], None, "duplicate image id", detail)
    return None


def _validate_ids(annotation: Any, records: Mapping[int, Any], seen: set[int]) -> Reject | None:
    if not isinstance(annotation, dict) or type(annotation.get("id")) is not int:
        return Reject("annotation", None, None, None, "malformed annotation", repr(annotation)[:80])
    annotation_id, image_id = annotation["id"], annotation.get("image_id")
    image = records.get(image_id) if type(image_id) is int else None
    if image is None:
        detail = f"no valid image record has the id {image_id!r}"
        return Reject("annotation", None, None, annotation_id, "unknown image id", detail)
    if annotation_id in seen:
        ids = (image["file_name"], image_id, annotation_id)
        return Reject("annotation", *ids, "duplicate annotation id", "")
    return None
