"""The input of batch inference in chunks, and how the images of a chunk are read."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress

import pyarrow as pa

from pipeline import storage
from pipeline.infer.input_image import InputImage, describe_error
from pipeline.infer.listed_image import ListedImage, listed_images
from pipeline.shards.manifest import MANIFEST_NAME, read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage.redaction import redacted_cause
from pipeline.storage.versions import file_url

ImageReader = Callable[["InputChunk"], Iterator[InputImage]]
"""Yields the images of a chunk in order, always ``chunk.images`` of them.

A missing or damaged image has an ``error``; a store that does not respond raises StorageError.
Workers on other machines get it, so it can be pickled.
"""


UNKNOWN_ID = -1
"""Of the images of a shard that cannot be read; their names are ``shard.parquet[row]``."""


def read_files(chunk: "InputChunk") -> Iterator[InputImage]:
    """Read images that are files in a folder; an `ImageReader`."""
    for number, name in enumerate(chunk.files):
        # If the input is a single image, its URL is the folder and its name is empty.
        yield read_file(chunk, number, file_url(chunk.folder_url, name))


def read_file(chunk: "InputChunk", number: int, url: str) -> InputImage:
    """Return image ``number`` of a chunk, or the error that there is no file at the URL."""
    try:
        return chunk.image(number, storage.read_bytes(url))
    except storage.MissingFileError as error:
        return chunk.image(number, error=str(error))


def read_shard(chunk: "InputChunk") -> Iterator[InputImage]:
    """Read the images of a shard; an `ImageReader`."""
    [file], [version] = chunk.files, chunk.versions or (None,)
    url = storage.join(chunk.folder_url, file)
    read = 0
    reason = "the shard ended early"
    try:
        for row in read_rows(chunk.folder_url, file):
            yield InputImage.from_row(row, version)
            read += 1
    except (OSError, pa.ArrowException) as error:
        # Damage is permanent only if the content differs from the manifest's digest.
        if _is_intact(chunk, url):
            cause = redacted_cause(error)
            raise storage.StorageError(f"{url}: {cause}") from cause
        reason = f"the shard is damaged ({describe_error(error)})"
    for row_index in range(read, chunk.images):
        name = f"{file}[{row_index}]"
        yield InputImage(UNKNOWN_ID, name, b"", f"{url}: {reason}", version=version)


@dataclass(frozen=True)
class InputChunk:
    """The images whose detections go into one output file.

    Args:
        name: name of the output file, without its suffix.
        images: number of images.
        identity: changes with the content: the shard's SHA-256, or a digest of the images' names,
            versions and, if the input gives them, ids.
        folder_url: what the names are relative to.
        files: names of one shard, or of the images.
        versions: the version of each file; see `pipeline.storage.versions`.
        image_ids: of each image; empty for a shard, whose rows have them.
        source_ids: the input's ids as JSON, where ``image_ids`` differ; empty if none does.
        has_given_ids: whether the ids are those of the input.
        id_range: the ids set aside for the chunk, as a half-open range.
        bit_depth: significant bits of images with more than 8, if they are not in a shard; None
            follows the files.
        reader: reads the images.
    """

    name: str
    images: int
    identity: str
    folder_url: str
    files: tuple[str, ...] = field(repr=False)
    versions: tuple[str, ...] = field(default=(), repr=False)
    image_ids: tuple[int, ...] = field(default=(), repr=False)
    source_ids: tuple[str | None, ...] = field(default=(), repr=False)
    has_given_ids: bool = False
    id_range: tuple[int, int] = (0, 0)
    bit_depth: int | None = None
    reader: ImageReader = read_shard

    @property
    def is_shard(self) -> bool:
        """Whether the only file is a shard."""
        return not self.image_ids

    @classmethod
    def of_images(
        cls,
        name: str,
        folder_url: str,
        images: Sequence[ListedImage],
        *,
        image_ids: Sequence[int],
        id_range: tuple[int, int],
        bit_depth: int | None,
        reader: ImageReader,
    ) -> "InputChunk":
        """Return a chunk of listed images, which have the given ids unless they have their own."""
        has_given_ids = bool(images) and images[0].image_id is not None
        listing = [list(image) if has_given_ids else list(image[:2]) for image in images]
        content = listing if bit_depth is None else [listing, bit_depth]
        source_ids = tuple(image.source_id for image in images)
        return cls(
            name=name,
            images=len(images),
            identity=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            folder_url=folder_url,
            files=tuple(image.name for image in images),
            versions=tuple(image.version for image in images),
            image_ids=tuple(image_ids),
            source_ids=source_ids if any(each is not None for each in source_ids) else (),
            has_given_ids=has_given_ids,
            id_range=id_range,
            bit_depth=bit_depth,
            reader=reader,
        )

    def listed(self) -> list[ListedImage]:
        """Return the images as the input listed them."""
        ids = self.image_ids if self.has_given_ids else ()
        return listed_images(self.files, self.versions, ids, self.source_ids)

    def only(self, kept: Sequence[bool]) -> "InputChunk":
        """Return the chunk with some of its images."""
        return InputChunk.of_images(
            self.name,
            self.folder_url,
            list(compress(self.listed(), kept)),
            image_ids=list(compress(self.image_ids, kept)),
            id_range=self.id_range,
            bit_depth=self.bit_depth,
            reader=self.reader,
        )

    def image(self, number: int, encoded: bytes = b"", error: str | None = None) -> InputImage:
        """Return image ``number`` of the chunk, which is no shard, with its content or an error."""
        return InputImage(
            self.image_ids[number],
            self.files[number] or self.folder_url,
            encoded,
            error,
            bit_depth=self.bit_depth,
            source_id=self.source_ids[number] if self.source_ids else None,
            version=self.versions[number],
        )


def is_shard_folder(url: str) -> bool:
    """Whether a folder holds shards, by its manifest."""
    return storage.exists(storage.join(url, MANIFEST_NAME))


def plan_shards(url: str) -> tuple[InputChunk, ...]:
    """Return one chunk for each shard of a folder."""
    return tuple(
        InputChunk(
            name=file.name.removesuffix(".parquet").replace("/", "-"),
            images=file.rows,
            identity=file.sha256,
            folder_url=url,
            files=(file.name,),
            versions=(file.sha256,),
        )
        for file in read_manifest(url).files
    )


def read_images(chunk: InputChunk) -> Iterator[InputImage]:
    """Yield the images of a chunk in order; always ``chunk.images`` of them.

    A missing or damaged file yields images with ``error``; a store that does not respond raises.

    Raises:
        StorageError: the store cannot be read now; a retry may succeed.
    """
    return chunk.reader(chunk)


def _is_intact(chunk: InputChunk, url: str) -> bool:
    try:
        content = storage.read_bytes(url)
    except storage.MissingFileError:
        return False
    return hashlib.sha256(content).hexdigest() == chunk.identity
