"""What to predict on: a folder of images or of shards, cut into named, repeatable pieces."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import storage
from pipeline.shards.manifest import MANIFEST_NAME, read_manifest
from pipeline.shards.row import read_rows

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class InputImage:
    """One encoded image, or why there is none.

    Args:
        image_id: the data set's number; in a folder of images the place in its sorted listing.
        file_name: as in the data set, or below the folder.
        encoded: JPEG, PNG or WebP.
        error: what kept it from being read; ``encoded`` is empty then.
    """

    image_id: int
    file_name: str
    encoded: bytes
    error: str | None = None


@dataclass(frozen=True)
class InputPiece:
    """The images that share an output file.

    Args:
        name: of the output file, without its suffix.
        images: how many.
        identity: changes with the content: the shard's SHA-256, or the files' names and sizes.
        folder: URL of the folder the files are in.
        files: relative names; one shard, or the images.
        first_id: image_id of the first, for a folder of images.
        is_shard: whether the one file is a shard.
    """

    name: str
    images: int
    identity: str
    folder: str
    files: tuple[str, ...] = field(repr=False)
    first_id: int = 0
    is_shard: bool = False


def plan_inputs(url: str, images_per_piece: int) -> tuple[InputPiece, ...]:
    """Cut a folder into pieces; the same content always gives the same pieces.

    Args:
        url: a folder with a manifest.json (shards), or of images at any depth, or one image.
        images_per_piece: for a folder of images.

    Raises:
        FileNotFoundError: neither shards nor images stand there.
    """
    if storage.exists(storage.join(url, MANIFEST_NAME)):
        return tuple(
            InputPiece(
                name=file.name.removesuffix(".parquet").replace("/", "-"),
                images=file.rows,
                identity=file.sha256,
                folder=url,
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
    listing = sorted((file[len(url) :].strip("/"), size) for file, size in sizes.items())
    return tuple(
        _piece_of_images(url, first, listing[first : first + images_per_piece], images_per_piece)
        for first in range(0, len(listing), images_per_piece)
    )


def read_images(piece: InputPiece) -> Iterator[InputImage]:
    """The images of a piece, in order; always ``piece.images`` of them.

    A file that is gone or damaged gives images with ``error``; a store that does not answer raises.

    Raises:
        StorageError: the store cannot be read now; trying again later may help.
    """
    if piece.is_shard:
        yield from _read_shard(piece)
        return
    for number, name in enumerate(piece.files, start=piece.first_id):
        try:
            # A single image is its own folder.
            url = storage.join(piece.folder, name) if name else piece.folder
            yield InputImage(number, name or piece.folder, storage.read_bytes(url))
        except storage.MissingFileError as error:
            yield InputImage(number, name, b"", str(error))


def _piece_of_images(
    url: str, first: int, part: list[tuple[str, int]], images_per_piece: int
) -> InputPiece:
    return InputPiece(
        name=f"part-{first // images_per_piece:05d}",
        images=len(part),
        identity=hashlib.sha256(json.dumps(part).encode()).hexdigest(),
        folder=url,
        files=tuple(name for name, _ in part),
        first_id=first,
    )


def _read_shard(piece: InputPiece) -> Iterator[InputImage]:
    [file] = piece.files
    read = 0
    problem = "the shard ended early"
    try:
        for row in read_rows(piece.folder, file):
            yield InputImage(row.image_id, row.file_name, row.image_bytes)
            read += 1
    except (OSError, pa.ArrowException) as error:
        # Only a file that is not what the manifest says is damaged for good.
        if _is_intact(piece, file):
            raise storage.StorageError(f"{storage.join(piece.folder, file)}: {error}") from error
        problem = f"the shard is damaged ({type(error).__name__}: {error})"
    for row_number in range(read, piece.images):
        name = f"{file}[{row_number}]"
        yield InputImage(-1, name, b"", f"{storage.join(piece.folder, file)}: {problem}")


def _is_intact(piece: InputPiece, file: str) -> bool:
    try:
        content = storage.read_bytes(storage.join(piece.folder, file))
    except storage.MissingFileError:
        return False
    return hashlib.sha256(content).hexdigest() == piece.identity
