"""The input of batch inference: images, alone or in shards, in chunks."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress

import pyarrow as pa

from pipeline import storage
from pipeline.infer.input_image import InputImage, describe_error
from pipeline.shards.manifest import MANIFEST_NAME, read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage.versions import file_url


@dataclass(frozen=True)
class InputChunk:
    """The images whose detections go into one output file.

    Args:
        name: name of the output file, without its suffix.
        images: number of images.
        identity: changes with the content: the shard's SHA-256, or a digest of the images' names
            and versions.
        folder_url: folder that holds the files.
        files: names relative to the folder: one shard, or the images.
        versions: the version of each file; see `pipeline.storage.versions`.
        image_ids: of each image of a folder; empty for a shard, whose rows have them.
        id_range: the ids set aside for the chunk, as a half-open range.
        bit_depth: significant bits of images with more than 8, in a folder of images; None follows
            the files.
    """

    name: str
    images: int
    identity: str
    folder_url: str
    files: tuple[str, ...] = field(repr=False)
    versions: tuple[str, ...] = field(default=(), repr=False)
    image_ids: tuple[int, ...] = field(default=(), repr=False)
    id_range: tuple[int, int] = (0, 0)
    bit_depth: int | None = None

    @property
    def is_shard(self) -> bool:
        """Whether the only file is a shard."""
        return not self.image_ids

    @classmethod
    def of_images(
        cls,
        name: str,
        folder_url: str,
        *,
        files: Sequence[str],
        versions: Sequence[str],
        image_ids: Sequence[int],
        id_range: tuple[int, int],
        bit_depth: int | None,
    ) -> "InputChunk":
        """Return a chunk of the images of a folder."""
        listing = list(zip(files, versions, strict=True))
        content = listing if bit_depth is None else [listing, bit_depth]
        return cls(
            name=name,
            images=len(files),
            identity=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            folder_url=folder_url,
            files=tuple(files),
            versions=tuple(versions),
            image_ids=tuple(image_ids),
            id_range=id_range,
            bit_depth=bit_depth,
        )

    def only(self, kept: Sequence[bool]) -> "InputChunk":
        """Return the chunk with some of its images."""
        return InputChunk.of_images(
            self.name,
            self.folder_url,
            files=list(compress(self.files, kept)),
            versions=list(compress(self.versions, kept)),
            image_ids=list(compress(self.image_ids, kept)),
            id_range=self.id_range,
            bit_depth=self.bit_depth,
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
    if chunk.is_shard:
        yield from _read_shard(chunk)
        return
    for image_id, name in zip(chunk.image_ids, chunk.files, strict=True):
        url = file_url(chunk.folder_url, name)
        # If the input is a single image, its URL is the folder and its name is empty.
        file_name = name or chunk.folder_url
        try:
            encoded = storage.read_bytes(url)
            yield InputImage(image_id, file_name, encoded, bit_depth=chunk.bit_depth)
        except storage.MissingFileError as error:
            yield InputImage(image_id, file_name, b"", str(error))


def _read_shard(chunk: InputChunk) -> Iterator[InputImage]:
    [file] = chunk.files
    url = storage.join(chunk.folder_url, file)
    read = 0
    reason = "the shard ended early"
    try:
        for row in read_rows(chunk.folder_url, file):
            yield InputImage.from_row(row)
            read += 1
    except (OSError, pa.ArrowException) as error:
        # Damage is permanent only if the content differs from the manifest's digest.
        if _is_intact(chunk, url):
            raise storage.StorageError(f"{url}: {error}") from error
        reason = f"the shard is damaged ({describe_error(error)})"
    for row_index in range(read, chunk.images):
        yield InputImage(-1, f"{file}[{row_index}]", b"", f"{url}: {reason}")


def _is_intact(chunk: InputChunk, url: str) -> bool:
    try:
        content = storage.read_bytes(url)
    except storage.MissingFileError:
        return False
    return hashlib.sha256(content).hexdigest() == chunk.identity
