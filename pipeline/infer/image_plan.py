"""Split the images of a source into chunks that stay the same while the source changes.

The ledger says which images are in which output file, and that never changes: images that are new,
or have been replaced, go into new chunks; images that are gone leave their chunk. So a job that
runs again on a growing bucket predicts on what is new only, wherever the new names sort. The plan
is the same for folders, list files, COCO documents, Parquet files and videos: they differ in how
they list and read images (`pipeline.infer.sources`).
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

import numpy as np

from pipeline import storage
from pipeline.infer.detection_files import SCHEMA_VERSION, is_detections_file
from pipeline.infer.inputs import InputChunk
from pipeline.infer.ledger import (
    LedgerEntry,
    changed_meanwhile,
    entry_url,
    output_url,
    read_entries,
    recorded_names,
)
from pipeline.infer.listed_image import ListedImage
from pipeline.infer.plan import KeyOf, Plan, output_sizes
from pipeline.infer.recorded_images import RecordedImages
from pipeline.infer.sources.source import ImageSource

_NAME_PREFIX = "part-"
_LISTING_BATCH = 1000
_SPOOLED_BYTES = 16 << 20


def plan_images(
    source: ImageSource,
    predictions_url: str,
    images_per_chunk: int,
    bit_depth: int | None,
    key_of: KeyOf,
) -> Plan:
    """Compare a listing with the ledger; the names of new images go to a temporary file.

    An uninterrupted job and one that was killed and started again write the same chunks.

    Args:
        source: the input.
        predictions_url: folder of the output files and the ledger.
        images_per_chunk: the most images of a new chunk.
        bit_depth: significant bits of images with more than 8; None follows the files.
        key_of: the key of a chunk in this job.

    Raises:
        MissingFileError: the input has no images.
        StorageError: the input or the output folder cannot be read.
    """
    recorded = _Recorded(source, predictions_url, bit_depth, key_of)
    new = _NewImages()
    listed = iter(source)
    while batch := list(islice(listed, _LISTING_BATCH)):
        for image, found in zip(batch, recorded.images.find(batch), strict=True):
            if not found:
                new.add(image)
    if not source.images:
        raise storage.MissingFileError(source.describe_empty())
    left = {name: recorded.images.listed(chunk.slots) for name, chunk in recorded.chunks.items()}
    kept = {name: chunk for name, chunk in recorded.chunks.items() if left[name].any()}
    again = {name: left[name] for name, chunk in kept.items() if not chunk.is_finished}
    done = {name: chunk for name, chunk in kept.items() if chunk.is_finished}

    def unfinished() -> Iterator[InputChunk]:
        yield from recorded.read_chunks(again)
        yield from new.chunks(
            source, images_per_chunk, bit_depth, kept.values(), recorded.foreign_files
        )

    return Plan(
        unfinished=unfinished,
        chunks=len(again) + -(-new.count // images_per_chunk),
        images=int(sum(mask.sum() for mask in again.values())) + new.count,
        input_images=source.images,
        finished=[chunk.entry for name, chunk in done.items() if left[name].all()],
        shrunk={name: left[name].tolist() for name in done if not left[name].all()},
        # Of images that were replaced, the old row must be gone before the new one is written.
        owned=frozenset(name for name in kept if name in done or left[name].all()),
        dropped=sorted({*recorded.chunks, *recorded.foreign} - set(kept)),
        damaged=recorded.damaged,
        outdated=recorded.outdated,
        skipped_files=dict(source.skipped.most_common()),
    )


@dataclass(frozen=True)
class _RecordedChunk:
    """A chunk of the ledger.

    Args:
        entry: without its files.
        slots: of its images.
        is_finished: whether its output is complete and would be made the same by this job.
    """

    entry: LedgerEntry
    slots: range
    is_finished: bool


class _Recorded:
    """The ledger as a plan needs it."""

    def __init__(
        self, source: ImageSource, predictions_url: str, bit_depth: int | None, key_of: KeyOf
    ) -> None:
        self.images = RecordedImages()
        self.chunks: dict[str, _RecordedChunk] = {}
        self.damaged: list[str] = []
        self.foreign: list[str] = []  # chunks of shards, from a job with another input
        self.outdated = 0
        self._url, self._reader = source.url, source.reader
        self._predictions_url, self._bit_depth = predictions_url, bit_depth
        sizes = output_sizes(predictions_url)
        for name, entry in read_entries(predictions_url, recorded_names(predictions_url)):
            if entry is None:
                self.damaged.append(name)
            elif not entry.image_ids or _number(name) is None:
                self.foreign.append(name)
            else:
                self.outdated += entry.schema != SCHEMA_VERSION
                slots = self.images.add(entry.listed())
                key = key_of(entry.chunk(self._url, bit_depth))
                is_finished = entry.key == key and sizes.get(name) == entry.size
                self.chunks[name] = _RecordedChunk(entry.counts(), slots, is_finished)
        # Files of others in the output folder: they stay, and no output may replace them.
        self.foreign_files = [
            name
            for name in sizes
            if name not in self.chunks
            and _number(name) is not None
            and not is_detections_file(output_url(predictions_url, name))
        ]

    def read_chunks(self, left: dict[str, np.ndarray]) -> Iterator[InputChunk]:
        """Yield recorded chunks again, with the images that are left of them."""
        for name, entry in read_entries(self._predictions_url, left):
            if entry is None or len(entry.files) != len(left[name]):
                raise changed_meanwhile(entry_url(self._predictions_url, name))
            chunk = entry.chunk(self._url, self._bit_depth, self._reader)
            yield chunk.only(left[name].tolist())


class _NewImages:
    """Images that no chunk has, in a temporary file."""

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[str] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 lives as the plan does
            _SPOOLED_BYTES, "w+", encoding="utf-8"
        )

    def add(self, image: ListedImage) -> None:
        self._file.write(json.dumps(image) + "\n")
        self.count += 1

    def chunks(
        self,
        source: ImageSource,
        images_per_chunk: int,
        bit_depth: int | None,
        recorded: Iterable[_RecordedChunk],
        taken: Iterable[str],
    ) -> Iterator[InputChunk]:
        """Yield the images in chunks, with ids that no recorded chunk has, and untaken names."""
        entries = [chunk.entry for chunk in recorded]
        numbers = _free_numbers({_number(name) for name in (*taken, *(e.name for e in entries))})
        free_ids = _FreeIds(entry.id_range for entry in entries)
        self._file.seek(0)
        while lines := list(islice(self._file, images_per_chunk)):
            images = [ListedImage(*json.loads(line)) for line in lines]
            given = [image.image_id for image in images if image.image_id is not None]
            ids = range(0) if given else free_ids.take(len(images))
            yield InputChunk.of_images(
                f"{_NAME_PREFIX}{next(numbers):05d}",
                source.url,
                images,
                image_ids=given or ids,
                id_range=(ids.start, ids.stop),
                bit_depth=bit_depth,
                reader=source.reader,
            )


@dataclass
class _FreeIds:
    """Hands out ranges of image ids, the lowest first, around those that are taken."""

    taken: Iterable[tuple[int, int]]
    _next: int = 0
    _ranges: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ranges = sorted(self.taken, reverse=True)

    def take(self, count: int) -> range:
        while self._ranges and self._next + count > self._ranges[-1][0]:
            self._next = max(self._next, self._ranges.pop()[1])
        ids = range(self._next, self._next + count)
        self._next += count
        return ids


def _free_numbers(taken: set[int | None]) -> Iterator[int]:
    number = 0
    while True:
        if number not in taken:
            yield number
        number += 1


def _number(name: str) -> int | None:
    """Return n of ``part-n``; None for any other name."""
    digits = name.removeprefix(_NAME_PREFIX)
    return int(digits) if digits != name and digits.isascii() and digits.isdecimal() else None
