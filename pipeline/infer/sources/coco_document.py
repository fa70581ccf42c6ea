"""The images of a COCO JSON document, under their ids."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import tee
from typing import Any

from model.structures import Category
from pipeline import storage
from pipeline.infer.inputs import ImageReader
from pipeline.infer.listed_image import ListedImage
from pipeline.infer.sources.named_files import file_versions, read_files_below
from pipeline.infer.sources.source import LISTED_TWICE
from pipeline.ingest.coco_records import read_image_record
from pipeline.ingest.identifiers import IdTable
from pipeline.ingest.listing import ImageRecord
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.storage.versions import file_url

COCO_SUFFIX = ".json"


class CocoDocument:
    """An `ImageSource`: the list ``images`` of a document; annotations are not needed.

    Ids that are no integers get those that `prepare_shards` gives them.

    Args:
        document_url: COCO JSON.
        images_url: folder that its file names are relative to.
    """

    reader: ImageReader = staticmethod(read_files_below)

    def __init__(self, document_url: str, images_url: str) -> None:
        self._document_url = document_url
        self.url = storage.absolute(images_url)
        self.images = 0
        self.skipped: Counter[str] = Counter()
        document = _read_document(document_url)
        self._records = document["images"]
        self.categories: Sequence[Category] = _categories(document.get("categories") or [])

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the images in the order of the document; a missing file is listed too.

        Raises:
            StorageError: two images have the same id, or the store cannot be read.
        """
        self.images, self.skipped = 0, Counter()
        records, same_records = tee(self._usable())
        versions = file_versions(file_url(self.url, each.file_name) for each in same_records)
        for record, version in zip(records, versions, strict=True):
            self.images += 1
            yield ListedImage(record.file_name, version, record.image_id, record.source_id)

    def describe_empty(self) -> str:
        """Return the error for a document without images."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return f"{self._document_url} has no usable images" + (f" ({counts})" if counts else "")

    def image_url(self, name: str) -> str:
        """Return the URL of an image."""
        return file_url(self.url, name)

    def _usable(self) -> Iterator[ImageRecord]:
        ids = IdTable([each.get("id") for each in self._records if isinstance(each, dict)])
        by_id: dict[int, ImageRecord] = {}
        for given in self._records:
            image_id = ids.find(given.get("id")) if isinstance(given, dict) else None
            try:
                record = read_image_record(given, image_id, self.url)
            except InvalidRecordError as error:
                self.skipped[f"({error.reason})"] += 1
                continue
            same = by_id.setdefault(record.image_id, record)
            if same is record:
                yield record
            elif same.file_name == record.file_name:
                self.skipped[LISTED_TWICE] += 1
            else:
                raise storage.StorageError(
                    f"{self._document_url}: {same.file_name} and {record.file_name} have the same "
                    f"id {given['id']!r}; give each image its own"
                )


def _read_document(url: str) -> dict[str, Any]:
    try:
        document = json.loads(storage.read_bytes(url))
    except (ValueError, RecursionError) as error:
        raise storage.StorageError(f"{url}: not valid JSON ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise storage.StorageError(f"{url}: not a COCO document; it needs the list images")
    return document


def _categories(records: Any) -> tuple[Category, ...]:
    """Return the categories in order of their ids; none if they are not as COCO has them."""
    try:
        found = [Category(record["id"], str(record["name"])) for record in records]
    except (TypeError, KeyError):
        return ()
    ids = [each.id for each in found]
    is_valid = all(type(each) is int for each in ids) and len(set(ids)) == len(ids)
    return tuple(sorted(found)) if is_valid else ()
