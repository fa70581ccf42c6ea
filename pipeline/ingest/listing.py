"""What the annotations of a data set list, whatever their format, before an image is opened."""

import hashlib
import typing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.validate import Reject
from pipeline.shards.keypoints import KeypointSet, combine_keypoints
from pipeline.shards.manifest import Protocol

_READERS = 16  # threads that wait for the store
_READ_AT_ONCE = 256  # files in memory

Annotation = dict[str, Any]
"""In COCO's form."""


class MaskFiles(typing.Protocol):
    """The files with an image's masks, read when its row is written."""

    def complete(self, image: "ImageRecord") -> tuple[tuple[Annotation, ...], tuple[Reject, ...]]:
        """The image's annotations with what the files say, and those that cannot be used.

        Raises:
            AnnotationError: the files cannot be used, nor can then the image.
            StorageError: the store does not answer.
        """


@dataclass(frozen=True)
class ImageRecord:
    """One annotated image as its data set lists it, not yet opened.

    Args:
        image_id: the data set's number.
        file_name: relative to the folder of images.
        size: as annotated.
        annotations: COCO annotation dicts, as they came.
        images_url: the folder of images.
        mask_files: where masks are to be had that ``annotations`` lack.
    """

    image_id: int
    file_name: str
    size: ImageSize
    annotations: tuple[Annotation, ...]
    images_url: str
    mask_files: MaskFiles | None = None


@dataclass(frozen=True)
class Listing:
    """What the annotations list.

    Args:
        name: of the annotations, for error texts.
        fingerprint: differs where annotations do; a single file's own bytes.
        categories: in order of their id; label i is ``categories[i - 1]``.
        images: the usable image records.
        rejects: records that cannot belong to any image.
        images_listed: image records in the annotations.
        annotations_listed: annotation records in them.
        protocol: how the data set is measured beside COCO's numbers.
        keypoints: the points that the categories name; None where they name none.
    """

    name: str
    fingerprint: bytes
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    rejects: tuple[Reject, ...]
    images_listed: int
    annotations_listed: int
    protocol: Protocol = "coco"
    keypoints: KeypointSet | None = None


def combine_listings(listings: Sequence[Listing]) -> Listing:
    """The images of several listings as one.

    Raises:
        StorageError: the categories differ, or an image id is in two listings.
    """
    first, *others = listings
    for other in others:
        if other.categories != first.categories:
            one = sorted(set(first.categories) - set(other.categories))
            two = sorted(set(other.categories) - set(first.categories))
            raise storage.StorageError(
                f"{first.name} and {other.name} differ in their categories: {one[:3]} is only in "
                f"the first, {two[:3]} only in the second; ids and names must agree"
            )
    _check_image_ids(listings)
    if not others:
        return first
    fingerprints = [hashlib.sha256(listing.fingerprint).digest() for listing in listings]
    return replace(
        first,
        name=" + ".join(listing.name for listing in listings),
        fingerprint=b"".join(fingerprints),
        images=tuple(image for listing in listings for image in listing.images),
        rejects=tuple(reject for listing in listings for reject in listing.rejects),
        images_listed=sum(listing.images_listed for listing in listings),
        annotations_listed=sum(listing.annotations_listed for listing in listings),
        # Of mixed years VOC's later rule, which is the last in order.
        protocol=max(listing.protocol for listing in listings),
        keypoints=combine_keypoints([listing.keypoints for listing in listings]),
    )


def _check_image_ids(listings: Sequence[Listing]) -> None:
    seen: dict[int, tuple[str, str]] = {}
    for listing in listings:
        own = {image.image_id: (image.file_name, listing.name) for image in listing.images}
        if twice := sorted(seen.keys() & own.keys()):
            (file, name), (other_file, other) = seen[twice[0]], own[twice[0]]
            raise storage.StorageError(
                f"{len(twice)} image ids are in two parts of the split, such as {twice[0]}: {file} "
                f"of {name} and {other_file} of {other}; is a part given twice? Else number one "
                "part's images anew"
            )
        seen |= own


def read_files(urls: Iterable[str]) -> Iterator[bytes | None]:
    """The files' contents in order, many read at once; None for one that is missing.

    Raises:
        StorageError: the store does not answer.
    """
    waiting = list(urls)
    with ThreadPoolExecutor(_READERS) as readers:
        for first in range(0, len(waiting), _READ_AT_ONCE):
            yield from readers.map(_read_if_there, waiting[first : first + _READ_AT_ONCE])


def _read_if_there(url: str) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except storage.MissingFileError:
        return None


def image_id_from_name(name: str) -> int:
    """The image id of a data set that only names its images; the same name, the same id.

    Digits are read as a number (000005 is 5, 2008_000002 is 2008000002); any other name gives
    the first 48 bits of its SHA-256.
    """
    digits = name.replace("_", "")
    if digits.isascii() and digits.isdigit() and len(digits) <= 15:
        return int(digits)
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)
