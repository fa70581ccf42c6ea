"""Which pieces are finished: one small file beside each output, written after it.

A piece counts as finished only if its entry is of the same model, settings and input, and its
output stands in full.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.config import digest_of
from pipeline.infer.inputs import InputPiece
from pipeline.infer.prediction_rows import SCHEMA_VERSION

DONE = "_done"
OUTPUT_SUFFIX = ".parquet"


@dataclass(frozen=True)
class LedgerEntry:
    """A finished piece.

    Args:
        name: of the piece.
        key: of model, settings and input (``piece_key``).
        images: rows written.
        failed: rows with ``error``.
        objects: detections written.
        size: of the output file, bytes.
        model: where the weights came from, for people.
    """

    name: str
    key: str
    images: int
    failed: int
    objects: int
    size: int
    model: str


def piece_key(piece: InputPiece, model_digest: str, least_score: float) -> str:
    """Equal where the output would be equal."""
    return digest_of(
        {
            "schema": SCHEMA_VERSION,
            "input": piece.identity,
            "images": piece.images,
            "model": model_digest,
            "least_score": least_score,
        }
    )


def output_url(folder: str, name: str) -> str:
    """URL of a piece's output file."""
    return storage.join(folder, name + OUTPUT_SUFFIX)


def write_entry(folder: str, entry: LedgerEntry) -> None:
    """Record a finished piece; call it after its output is written."""
    storage.write_json(_entry_url(folder, entry.name), asdict(entry))


def finished_entries(folder: str, keys: dict[str, str]) -> dict[str, LedgerEntry]:
    """The pieces that need not be done again.

    Args:
        folder: URL of the outputs.
        keys: piece name to the key it would get now.
    """
    sizes = storage.file_sizes(folder)
    finished = {}
    for name, key in keys.items():
        if _entry_url(folder, name) not in sizes:
            continue
        entry = _read_entry(folder, name)
        whole = entry is not None and sizes.get(output_url(folder, name)) == entry.size
        if entry is not None and whole and entry.key == key:
            finished[name] = entry
    return finished


def remove_stale(folder: str, names: Sequence[str]) -> list[str]:
    """Delete outputs of pieces that the input no longer has; returns their names."""
    entries = storage.list_files(storage.join(folder, DONE), (".json",))
    recorded = [url.rpartition("/")[2].removesuffix(".json") for url in entries]
    stale = sorted(set(recorded) - set(names))
    for name in stale:
        storage.delete(output_url(folder, name))
        storage.delete(_entry_url(folder, name))
    return stale


def _entry_url(folder: str, name: str) -> str:
    return storage.join(folder, DONE, f"{name}.json")


def _read_entry(folder: str, name: str) -> LedgerEntry | None:
    try:
        return LedgerEntry(**storage.read_json(_entry_url(folder, name)))
    except (storage.StorageError, TypeError):  # of another version, or damaged: do the piece again
        return None
