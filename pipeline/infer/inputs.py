"""The input of batch inference: a folder of images or shards, split into chunks."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import storage
from pipeline.shards.decode import IMAGE_SUFFIXES, Pixels, decode_image
from pipeline.shards.manifest import MANIFEST_NAME, read_manifest
from pipeline.shards.row import ShardRow, read_rows
from pipeline.storage.versions import file_versions


@dataclass(frozen=True)
class InputImage:
    """One encoded image, or the error that prevented reading it.

    Args:
        image_id: the dataset's id; for a folder of images the index in its sorted listing.
        file_name: as in the dataset, or relative to the folder.
        encoded: the image file.
        error: why the image could not be read; ``encoded`` is empty then.
        orientation: EXIF orientation to turn the pixels by; None follows the file.
        bit_depth: significant bits of an image with more than 8; None follows the file.
        source_id: the dataset's id of the image as JSON, if ``image_id`` differs.
    """

    image_id: int
    file_name: str
    encoded: bytes
    error: str | None = None
    orientation: int | None = None
    bit_depth: int | None = None
    source_id: str | None = None

    @classmethod
    def from_row(cls, row: ShardRow) -> "InputImage":
        """Return the image of a row, to be decoded as its annotations require."""
        return cls(
            row.image_id,
            row.file_name,
            row.image_bytes,
            orientation=row.orientation,
            bit_depth=row.bit_depth,
            source_id=row.source_image_id,
        )

    def decode(self) -> Pixels:
        """Return the image's pixels, (H, W, 3) uint8 RGB.

        Raises:
            DecodeError: the image is damaged, too large or of unknown depth.
        """
        return decode_image(self.encoded, self.orientation, self.bit_depth)


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
        first_id: image_id of the first image, for a folder of images.
        is_shard: whether the only file is a shard.
        bit_depth: significant bits of images with more than 8, in a folder of images; None follows
            the files.
    """

    name: str
    images: int
    identity: str
    folder_url: str
    files: tuple[str, ...] = field(repr=False)
    first_id: int = 0
    is_shard: bool = False
    bit_depth: int | None = None


def plan_inputs(
    url: str, images_per_chunk: int, bit_depth: int | None = None
) -> tuple[InputChunk, ...]:
    """Split the input into chunks; the same content always gives the same chunks.

    Args:
        url: a folder with a manifest.json (shards), a folder of images at any depth, or one image.
        images_per_chunk: chunk size for a folder of images; a shard is a chunk.
        bit_depth: significant bits of images with more than 8, in a folder of images; None follows
            the files.

    Raises:
        FileNotFoundError: the URL holds neither shards nor images.
    """
    if storage.exists(storage.join(url, MANIFEST_NAME)):
        return tuple(
            InputChunk(
                name=file.name.removesuffix(".parquet").replace("/", "-"),
                images=file.rows,
                identity=file.sha256,
                folder_url=url,
                files=(file.name,),
                is_shard=True,
            )
            for file in read_manifest(url).files
        )
    sizes = storage.file_sizes(url, IMAGE_SUFFIXES)
    if not sizes:
        raise FileNotFoundError(
            f"{url} holds neither shards ({MANIFEST_NAME}) nor images ({', '.join(IMAGE_SUFFIXES)})"
        )
    versions = file_versions(url)
    listing = sorted(
        (file[len(url) :].strip("/"), versions.get(file, str(size))) for file, size in sizes.items()
    )
    return tuple(
        _chunk_of_images(
            url, first, listing[first : first + images_per_chunk], images_per_chunk, bit_depth
        )
        for first in range(0, len(listing), images_per_chunk)
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
    for image_id, name in enumerate(chunk.files, start=chunk.first_id):
        try:
            # If the input is a single image, its URL is the folder and its name is empty.
            url = storage.join(chunk.folder_url, name) if name else chunk.folder_url
            yield InputImage(
                image_id,
                name or chunk.folder_url,
                storage.read_bytes(url),
                bit_depth=chunk.bit_depth,
            )
        except storage.MissingFileError as error:
            yield InputImage(image_id, name, b"", str(error))


def _chunk_of_images(
    url: str,
    first: int,
    listing: list[tuple[str, str]],
    images_per_chunk: int,
    bit_depth: int | None,
) -> InputChunk:
    content = listing if bit_depth is None else [listing, bit_depth]
    return InputChunk(
        name=f"part-{first // images_per_chunk:05d}",
        images=len(listing),
        identity=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        folder_url=url,
        files=tuple(name for name, _ in listing),
        first_id=first,
        bit_depth=bit_depth,
    )


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
        reason = f"the shard is damaged ({type(error).__name__}: {error})"
    for row_index in range(read, chunk.images):
        yield InputImage(-1, f"{file}[{row_index}]", b"", f"{url}: {reason}")


def _is_intact(chunk: InputChunk, url: str) -> bool:
    try:
        content = storage.read_bytes(url)
    except storage.MissingFileError:
        return False
    return hashlib.sha256(content).hexdigest() == chunk.identity
