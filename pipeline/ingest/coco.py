"""COCO instances JSON as a `Listing`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.structures import Category
from pipeline import storage
from pipeline.ingest.coco_records import read_image_record
from pipeline.ingest.identifiers import IdTable, id_key, id_text, number_annotations
from pipeline.ingest.listing import Annotation, ImageRecord, Listing
from pipeline.ingest.rejects import InvalidRecordError, Reject
from pipeline.shards.decoding import UPRIGHT_KEY
from pipeline.shards.keypoints import KeypointSet, read_keypoint_set


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
    try:
        return parse_coco(data, annotations_url, images_url, _read_image_ids(image_ids_url))
    except UnknownImageIdsError as error:
        raise storage.StorageError(f"{image_ids_url}: {error}") from None


class UnknownImageIdsError(storage.StorageError):
    """Images to be kept are not in the annotations."""


def _read_image_ids(url: str) -> list[Any]:
    """Read a JSON list of ids, or ids separated by white space."""
    text = storage.read_bytes(url)
    try:
        is_json = text.lstrip().startswith(b"[")
        ids = json.loads(text) if is_json else text.decode("utf-8").split()
    except ValueError:
        ids = None
    if not ids or not all(type(each) in (int, float, str) for each in ids):
        raise storage.StorageError(
            f"{url}: not a list of image ids; write a JSON list of ids, or one id per line"
        )
    return list(ids)


def parse_coco(
    data: bytes, url: str, images_url: str, only: Sequence[Any] | None = None
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
    images_url = storage.absolute(images_url)
    images, annotations, records, is_upright = _parse_document(data, url)
    category_ids = IdTable([record.get("id") for record in records], others="count")
    categories, keypoints = _read_categories(records, category_ids, url)
    image_ids = IdTable([image.get("id") for image in images if isinstance(image, dict)])
    numbers = number_annotations(
        [a.get("id") if isinstance(a, dict) else None for a in annotations]
    )
    if only is not None:
        kept = _find_images(only, image_ids, url)
        data += json.dumps(sorted(kept)).encode()
        # Records without a usable id are kept, to be rejected below.
        selected = {None, *kept}
        images = [image for image in images if _image_id(image, "id", image_ids) in selected]
        pairs = [
            (annotation, number)
            for annotation, number in zip(annotations, numbers, strict=True)
            if _image_id(annotation, "image_id", image_ids) in selected
        ]
    else:
        pairs = list(zip(annotations, numbers, strict=True))
    listed, rejects = _index_images(images, image_ids, images_url)
    if is_upright:
        listed = {number: replace(image, is_upright=True) for number, image in listed.items()}
    grouping = _Grouping(listed, image_ids, category_ids)
    for annotation, number in pairs:
        grouping.add(annotation, number)
    return Listing(
        name=url,
        fingerprint=data,
        categories=categories,
        images=grouping.images(),
        rejects=(*rejects, *grouping.rejects),
        images_listed=len(images),
        annotations_listed=len(pairs),
        keypoints=keypoints,
        renumbered=grouping.renumbered,
    )


def _parse_document(
    data: bytes, url: str
) -> tuple[list[Any], list[Any], list[dict[str, Any]], bool]:
    """Return images, annotations and categories, and whether they refer to upright images."""
    try:
        document = json.loads(data)
        lists = [document[key] for key in ("images", "annotations", "categories")]
        problem = "" if all(isinstance(each, list) for each in lists) else "one is not a list"
        if not problem and not all(isinstance(each, dict) for each in lists[2]):
            problem = "a category is not an object"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise storage.StorageError(
            f"{url}: not a COCO instances file ({problem}); it needs the lists images, annotations "
            "and categories"
        )
    info = document.get("info")
    is_upright = isinstance(info, dict) and info.get(UPRIGHT_KEY) is True
    return lists[0], lists[1], lists[2], is_upright


def _read_categories(
    records: Sequence[Mapping[str, Any]], ids: IdTable, url: str
) -> tuple[tuple[Category, ...], KeypointSet | None]:
    """Return the categories in order of their ids, and their keypoints."""
    keys = [id_key(record.get("id")) for record in records]
    if None in keys or len(set(keys)) != len(keys) or not keys:
        raise storage.StorageError(f"{url}: needs at least one category, and unique category ids")
    numbered = [{**record, "id": ids.find(record["id"])} for record in records]
    if unnamed := [record["id"] for record in records if record.get("name") in (None, "")]:
        raise storage.StorageError(f"{url}: the category {unnamed[0]!r} has no name")
    try:
        keypoints = read_keypoint_set(numbered)
    except (ValueError, TypeError) as error:
        raise storage.StorageError(f"{url}: {error}") from error
    return tuple(sorted(Category(c["id"], str(c["name"])) for c in numbered)), keypoints


def _find_images(only: Iterable[Any], ids: IdTable, url: str) -> set[int]:
    """Return our ids of the images to keep."""
    listed = list(only)
    found = {reference: ids.find(reference) for reference in listed}
    if missing := [reference for reference, number in found.items() if number is None]:
        raise UnknownImageIdsError(
            f"{len(missing)} of {len(listed)} image ids are not in {url}, such as {missing[:5]}"
        )
    return {number for number in found.values() if number is not None}


def _image_id(record: Any, key: str, ids: IdTable) -> int | None:
    return ids.find(record.get(key)) if isinstance(record, dict) else None


def _index_images(
    images: Sequence[Any], ids: IdTable, images_url: str
) -> tuple[dict[int, ImageRecord], list[Reject]]:
    """Return the valid image records by our id; reject the others."""
    records: dict[int, ImageRecord] = {}
    rejects = []
    for image in images:
        image_id = _image_id(image, "id", ids)
        try:
            record = read_image_record(image, image_id, images_url)
            if (same := records.get(record.image_id)) is not None:
                detail = f"{same.file_name} has the same id"
                raise InvalidRecordError("duplicate image id", detail)
        except InvalidRecordError as error:
            file = image.get("file_name") if isinstance(image, dict) else None
            file = file.encode("utf-8", "replace").decode()[:200] if isinstance(file, str) else None
            rejects.append(Reject("image", file, image_id, None, error.reason, error.detail))
        else:
            records[record.image_id] = record
    return records, rejects


class _Grouping:
    """Groups annotations by image; rejects those without a valid image, and repeated ones."""

    def __init__(
        self, images: Mapping[int, ImageRecord], image_ids: IdTable, category_ids: IdTable
    ) -> None:
        self.records = images
        self.image_ids = image_ids
        self.category_ids = category_ids
        self.by_image: dict[int, list[Annotation]] = {image_id: [] for image_id in images}
        self.rejects: list[Reject] = []
        self.renumbered = 0
        self.first_of_id: dict[Any, Annotation] = {}

    def add(self, annotation: Any, number: int) -> None:
        """Add an annotation under our id."""
        if not isinstance(annotation, dict):
            reason, detail = "malformed annotation", repr(annotation)[:80]
            self.rejects.append(Reject("annotation", None, None, number, reason, detail))
            return
        given = annotation.get("id")
        source_id = None if type(given) is int and given == number else id_text(given)
        image_id = self.image_ids.find(annotation.get("image_id"))
        image = None if image_id is None else self.records.get(image_id)
        if image_id is None or image is None:
            detail = f"no valid image record has the id {annotation.get('image_id')!r}"[:200]
            reason = "unknown image id"
            self.rejects.append(
                Reject("annotation", None, None, number, reason, detail, source_id=source_id)
            )
            return
        first = (
            annotation if given is None else self.first_of_id.setdefault(id_key(given), annotation)
        )
        if first is not annotation and first == annotation:
            ids = (image.file_name, image_id, number)
            reject = Reject("annotation", *ids, "annotation listed twice", "", source_id=source_id)
            self.rejects.append(reject)
            return
        self.renumbered += source_id is not None
        self.by_image[image_id].append(self._renumber(annotation, number, source_id))

    def _renumber(self, annotation: Annotation, number: int, source_id: str | None) -> Annotation:
        """Return the annotation with our ids; itself if its own are the same."""
        changes: dict[str, Any] = {}
        if source_id is not None:
            changes = {"id": number, "source_id": source_id}
        given = annotation.get("category_id")
        category_id = self.category_ids.find(given)
        if category_id is not None and type(given) is not int:
            changes["category_id"] = category_id
        return {**annotation, **changes} if changes else annotation

    def images(self) -> tuple[ImageRecord, ...]:
        """Return the image records with their annotations."""
        return tuple(
            replace(record, annotations=tuple(self.by_image[image_id]))
            for image_id, record in self.records.items()
        )
