"""The ledger of finished chunks: one small file for each output file, written after it.

An entry says which images, in which versions, are in the output file. A chunk counts as finished
only if its entry has the same model, settings and input, and its output file is complete.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from model.config.settings import Precision
from pipeline import storage
from pipeline.config import digest_of
from pipeline.infer.detection_files import SCHEMA_VERSION
from pipeline.infer.inputs import ImageReader, InputChunk, read_files
from pipeline.infer.listed_image import ListedImage, listed_images

LEDGER_FOLDER = "_done"
OUTPUT_SUFFIX = ".parquet"

READ_THREADS = 16  # of entries and outputs: small files, each a request to the store


@dataclass(frozen=True)
class LedgerEntry:
    """A finished chunk. Field names are keys of the entry's file.

    Args:
        name: name of the chunk.
        key: digest of model, settings and input (``chunk_key``).
        images: number of rows written.
        failed: number of rows with ``error``.
        objects: number of detections written.
        size: size of the output file, bytes.
        model: source of the weights, for information.
        files: the names of the files that were read: the shard, or the images.
        versions: the version of each file: the SHA-256 of a shard; the ETag, or the size and the
            time of the last change, of an image.
        image_ids: of each image that is not in a shard.
        id_range: the ids set aside for the chunk, as a half-open range; it has gaps where images
            were deleted since.
        source_ids: the input's ids as JSON, where ``image_ids`` differ; empty if none does.
        has_given_ids: whether the ids are those of the input.
        schema: version of the rows; 2 is also that of entries from before it was recorded.
        model_digest: SHA-256 of weights and settings.
        score_threshold: detections with a lower score were left out.
        precision: autocast dtype of the forward passes.
    """

    name: str
    key: str
    images: int
    failed: int
    objects: int
    size: int
    model: str
    files: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    image_ids: tuple[int, ...] = ()
    id_range: tuple[int, int] = (0, 0)
    source_ids: tuple[str | None, ...] = ()
    has_given_ids: bool = False
    schema: int = 2
    model_digest: str = ""
    score_threshold: float = 0.0
    precision: Precision = "fp32"

    def counts(self) -> "LedgerEntry":
        """Return the entry without its files: small, whatever the size of the chunk."""
        return replace(self, files=(), versions=(), image_ids=(), source_ids=())

    def chunk(
        self, folder_url: str, bit_depth: int | None, reader: ImageReader = read_files
    ) -> InputChunk:
        """Return the chunk of images that the entry was written for."""
        return InputChunk.of_images(
            self.name,
            folder_url,
            self.listed(),
            image_ids=self.image_ids,
            id_range=self.id_range,
            bit_depth=bit_depth,
            reader=reader,
        )

    def listed(self) -> list[ListedImage]:
        """Return the images as the input listed them; not of an entry of a shard."""
        ids = self.image_ids if self.has_given_ids else ()
        return listed_images(self.files, self.versions, ids, self.source_ids)


_ENTRY = TypeAdapter(LedgerEntry)


def chunk_key(
    chunk: InputChunk, model_digest: str, score_threshold: float, precision: Precision = "fp32"
) -> str:
    """Return a digest of everything that the output depends on: equal keys mean equal outputs."""
    content = {
        "schema": SCHEMA_VERSION,
        "input": chunk.identity,
        "images": chunk.images,
        "model": model_digest,
        # The names are hashed too: renaming one would invalidate every ledger.
        "least_score": score_threshold,
    }
    # Left out for fp32, as in ledgers from before there was a choice.
    return digest_of(content if precision == "fp32" else content | {"precision": precision})


def output_url(predictions_url: str, name: str) -> str:
    """Return the URL of a chunk's output file."""
    return storage.join(predictions_url, name + OUTPUT_SUFFIX)


def entry_url(predictions_url: str, name: str) -> str:
    """Return the URL of a chunk's entry."""
    return storage.join(predictions_url, LEDGER_FOLDER, f"{name}.json")


def write_entry(predictions_url: str, entry: LedgerEntry) -> None:
    """Record a finished chunk; call this after its output is written."""
    document = json.dumps(asdict(entry), separators=(",", ":"))
    storage.write_bytes(entry_url(predictions_url, entry.name), document.encode())


def recorded_names(predictions_url: str) -> list[str]:
    """Return the sorted names of all chunks with an entry."""
    entries = storage.list_files(storage.join(predictions_url, LEDGER_FOLDER), (".json",))
    return sorted(url.rpartition("/")[2].removesuffix(".json") for url in entries)


def read_entries(
    predictions_url: str, names: Iterable[str]
) -> Iterator[tuple[str, LedgerEntry | None]]:
    """Yield each name with its entry; None if the entry is damaged or of another version."""
    names = list(names)
    with ThreadPoolExecutor(READ_THREADS, "ledger") as pool:
        # A few at a time: an entry lists all images of its chunk.
        for start in range(0, len(names), 8 * READ_THREADS):
            batch = names[start : start + 8 * READ_THREADS]
            yield from zip(
                batch, pool.map(lambda name: read_entry(predictions_url, name), batch), strict=True
            )


def read_entry(predictions_url: str, name: str) -> LedgerEntry | None:
    """Return the entry of a chunk; None if it is missing, damaged or of another version."""
    try:
        entry = _ENTRY.validate_json(storage.read_bytes(entry_url(predictions_url, name)))
    except (ValidationError, storage.MissingFileError):
        return None
    optional = (entry.image_ids, entry.source_ids)
    counts = {len(entry.files), len(entry.versions), *(len(each) for each in optional if each)}
    is_complete = len(counts) == 1 and (bool(entry.image_ids) or not entry.has_given_ids)
    return entry if entry.name == name and is_complete else None


def changed_meanwhile(url: str) -> storage.StorageError:
    """Build the error for a file that another job has changed."""
    return storage.StorageError(
        f"{url} changed while the job was running. Does another job write to the same folder? "
        "Start this one again."
    )
