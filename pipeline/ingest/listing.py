"""The images and annotations that a dataset of any format lists, before an image is opened."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.rejects import Reject
from pipeline.shards.keypoints import KeypointSet, merge_keypoint_sets
from pipeline.shards.manifest import EvaluationProtocol

_READ_THREADS = 16  # they mostly wait for the store
_READ_AHEAD = 256  # files in memory

Annotation = dict[str, Any]
"""In COCO's format; ``source_id`` is the annotation's own id as JSON, if ``id`` differs."""


class MaskSource(Protocol):
    """A source of the masks that an image's annotations lack, read when its row is written."""

    def add_masks(self, image: "ImageRecord") -> tuple[tuple[Annotation, ...], tuple[Reject, ...]]:
        """Return the image's annotations with masks, and those that must be quarantined.

        Raises:
            InvalidRecordError: the mask files are unusable, so the image must be quarantined.
            StorageError: the store cannot be read.
        """


@dataclass(frozen=True)
class ImageRecord:
    """One annotated image as its dataset lists it, not yet opened.

    Args:
        image_id: our id of the image: the dataset's own, if that is an integer.
        file_name: relative to the folder of images.
        size: as annotated; None if the annotations do not say.
        annotations: in COCO's format, not yet validated.
        images_url: the folder of images.
        mask_source: where to read masks that ``annotations`` lack.
        source_id: the dataset's id of the image as JSON, if ours differs.
        size_is_annotated: whether ``size`` is the annotated one, not read from the file.
        is_upright: whether the annotations say that they refer to the image as its EXIF data turns
            it; otherwise the settings, or the sizes, decide.
    """

    image_id: int
    file_name: str
    size: ImageSize | None
    annotations: tuple[Annotation, ...]
    images_url: str
    mask_source: MaskSource | None = None
    source_id: str | None = None
    size_is_annotated: bool = True
    is_upright: bool = False


@dataclass(frozen=True)
class Listing:
    """What the annotations of a dataset list.

    Args:
        name: where the annotations are, for error messages.
        fingerprint: changes with the annotations: the bytes of a single file, or a hash.
        categories: in order of their labels; label i is ``categories[i - 1]``.
        images: the usable image records.
        rejects: the unusable image records, and annotations that belong to no usable image.
        images_listed: number of image records in the annotations.
        annotations_listed: number of annotation records.
        protocol: which metrics the dataset is evaluated with.
        keypoints: the keypoints that the categories define; None if they define none.
        renumbered: number of annotations whose own id is missing, repeated or no integer.
        other_classes: number of annotations of classes that are not selected, among those listed.
    """

    name: str
    fingerprint: bytes
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    rejects: tuple[Reject, ...]
    images_listed: int
    annotations_listed: int
    protocol: EvaluationProtocol = "coco"
    keypoints: KeypointSet | None = None
    renumbered: int = 0
    other_classes: int = 0


def combine_listings(listings: Sequence[Listing]) -> Listing:
    """Combine the parts of a split into one listing.

    Raises:
        StorageError: the categories differ, or an image id is in two parts.
    """
    first, *others = listings
    for other in others:
        if other.categories != first.categories:
            only_first = sorted(set(first.categories) - set(other.categories))
            only_other = sorted(set(other.categories) - set(first.categories))
            raise storage.StorageError(
                f"{first.name} and {other.name} have different categories: only the first has "
                f"{only_first[:3]}, only the second has {only_other[:3]}; all parts of a split "
                "need the same ids and names"
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
        # Mixed VOC years use the later protocol, which is also the last in alphabetical order.
        protocol=max(listing.protocol for listing in listings),
        keypoints=merge_keypoint_sets([listing.keypoints for listing in listings]),
        renumbered=sum(listing.renumbered for listing in listings),
        other_classes=sum(listing.other_classes for listing in listings),
    )


def _check_image_ids(listings: Sequence[Listing]) -> None:
    seen: dict[int, tuple[str, str]] = {}
    for listing in listings:
        current = {image.image_id: (image.file_name, listing.name) for image in listing.images}
        if shared := sorted(seen.keys() & current.keys()):
            (file, name), (other_file, other) = seen[shared[0]], current[shared[0]]
            raise storage.StorageError(
                f"{len(shared)} image ids are in two parts of the split, such as {shared[0]}: "
                f"{file} in {name} and {other_file} in {other}. Is a part given twice? If not, "
                "renumber the images of one part"
            )
        seen |= current


def read_files(urls: Iterable[str]) -> Iterator[bytes | None]:
    """Yield the content of each file in order, reading many at once; None if a file is missing.

    Raises:
        StorageError: the store cannot be read.
    """
    remaining = list(urls)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for first in range(0, len(remaining), _READ_AHEAD):
            yield from pool.map(_read_if_exists, remaining[first : first + _READ_AHEAD])


def _read_if_exists(url: str) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except storage.MissingFileError:
        return None
