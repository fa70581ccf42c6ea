"""The ledger of finished chunks: one small file for each output file, written after it.

A chunk counts as finished only if its entry has the same model, settings and input, and its output
file is complete.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from model.config.settings import Precision
from pipeline import storage
from pipeline.config import digest_of
from pipeline.infer.detection_rows import SCHEMA_VERSION
from pipeline.infer.inputs import InputChunk

LEDGER_FOLDER = "_done"
OUTPUT_SUFFIX = ".parquet"


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
    """

    name: str
    key: str
    images: int
    failed: int
    objects: int
    size: int
    model: str


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


def write_entry(predictions_url: str, entry: LedgerEntry) -> None:
    """Record a finished chunk; call this after its output is written."""
    storage.write_json(_entry_url(predictions_url, entry.name), asdict(entry))


def finished_entries(predictions_url: str, keys: dict[str, str]) -> dict[str, LedgerEntry]:
    """Return the entries of the chunks that are already finished, by chunk name.

    Args:
        predictions_url: folder of the output files.
        keys: chunk name -> the key that its output would have now.
    """
    sizes = storage.file_sizes(predictions_url)
    finished = {}
    for name, key in keys.items():
        if _entry_url(predictions_url, name) not in sizes:
            continue
        entry = _read_entry(predictions_url, name)
        if entry is None or entry.key != key:
            continue
        if sizes.get(output_url(predictions_url, name)) == entry.size:
            finished[name] = entry
    return finished


def remove_stale(predictions_url: str, names: Sequence[str]) -> list[str]:
    """Delete recorded outputs of chunks that are not in ``names``; return the deleted names."""
    entries = storage.list_files(storage.join(predictions_url, LEDGER_FOLDER), (".json",))
    recorded = [url.rpartition("/")[2].removesuffix(".json") for url in entries]
    stale = sorted(set(recorded) - set(names))
    for name in stale:
        storage.delete(output_url(predictions_url, name))
        storage.delete(_entry_url(predictions_url, name))
    return stale


def _entry_url(predictions_url: str, name: str) -> str:
    return storage.join(predictions_url, LEDGER_FOLDER, f"{name}.json")


def _read_entry(predictions_url: str, name: str) -> LedgerEntry | None:
    """Read an entry; None if it is damaged or of another version, so that its chunk is redone."""
    try:
        return LedgerEntry(**storage.read_json(_entry_url(predictions_url, name)))
    except (storage.StorageError, TypeError):
        return None
