"""What a job of batch inference has to do, given what earlier jobs have done."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from pipeline import storage
from pipeline.infer.detection_files import SCHEMA_VERSION
from pipeline.infer.inputs import InputChunk
from pipeline.infer.ledger import LedgerEntry, output_url, read_entries, recorded_names

KeyOf = Callable[[InputChunk], str]
"""Returns `pipeline.infer.ledger.chunk_key` with the model and the settings of the job."""


@dataclass(frozen=True)
class Plan:
    """The chunks of the input, finished and unfinished.

    Args:
        unfinished: returns the chunks to predict on; they need not fit into memory.
        chunks: number of unfinished chunks.
        images: number of their images.
        input_images: number of images of the whole input.
        finished: the entries of finished chunks, without their files.
        shrunk: chunks whose output has rows of images that are gone: name -> which of its images
            are left.
        owned: names of recorded chunks whose outputs stay, at least until they are written again.
        dropped: names of recorded chunks of which nothing is left.
        damaged: names of entries that cannot be read.
        outdated: number of recorded chunks whose rows are of an earlier version.
        skipped_files: suffix -> number of files of the input that are no images.
    """

    unfinished: Callable[[], Iterator[InputChunk]]
    chunks: int
    images: int
    input_images: int
    finished: Sequence[LedgerEntry] = ()
    shrunk: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    owned: frozenset[str] = frozenset()
    dropped: Sequence[str] = ()
    damaged: Sequence[str] = ()
    outdated: int = 0
    skipped_files: Mapping[str, int] = field(default_factory=dict)

    def until(self, end_s: float, clock: Callable[[], float]) -> "Plan":
        """Return the plan without the chunks that would begin after ``end_s`` on a clock."""
        unfinished = self.unfinished
        return replace(self, unfinished=lambda: takewhile(lambda _: clock() < end_s, unfinished()))


def plan_chunks(chunks: Sequence[InputChunk], predictions_url: str, key_of: KeyOf) -> Plan:
    """Plan chunks that are known from the start: shards.

    Raises:
        StorageError: the output folder cannot be read.
    """
    by_name = {chunk.name: chunk for chunk in chunks}
    recorded = recorded_names(predictions_url)
    sizes = output_sizes(predictions_url)
    finished, damaged, outdated = [], [], 0
    for name, entry in read_entries(predictions_url, (n for n in recorded if n in by_name)):
        if entry is None:
            damaged.append(name)
            continue
        outdated += entry.schema != SCHEMA_VERSION
        if entry.key == key_of(by_name[name]) and sizes.get(name) == entry.size:
            finished.append(entry.counts())
    done = {entry.name for entry in finished}
    unfinished = [chunk for chunk in chunks if chunk.name not in done]
    return Plan(
        unfinished=lambda: iter(unfinished),
        chunks=len(unfinished),
        images=sum(chunk.images for chunk in unfinished),
        input_images=sum(chunk.images for chunk in chunks),
        finished=finished,
        # A shard is always the same chunk: its old output stays until the new one replaces it.
        owned=frozenset(name for name in recorded if name in by_name),
        dropped=[name for name in recorded if name not in by_name],
        damaged=damaged,
        outdated=outdated,
    )


def output_sizes(predictions_url: str) -> dict[str, int]:
    """Return the size in bytes of every Parquet file in the output folder, by chunk name."""
    prefix = len(output_url(predictions_url, "")) - len(".parquet")
    sizes = {url[prefix:]: size for url, size in storage.file_sizes(predictions_url).items()}
    return {
        name.removesuffix(".parquet"): size
        for name, size in sizes.items()
        if name.endswith(".parquet") and "/" not in name
    }
