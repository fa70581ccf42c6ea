"""Plan which rows of existing shards make each new shard."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count

import pyarrow as pa

from pipeline import storage
from pipeline.ingest.merge_task import RowRange
from pipeline.ingest.merged_classes import MergedClasses
from pipeline.shards.manifest import Manifest, ShardFile
from pipeline.shards.shard_file import open_shard

_READ_THREADS = 16  # they mostly wait for the store


@dataclass(frozen=True)
class Source:
    """A folder of shards to merge."""

    url: str
    manifest: Manifest


def row_ranges(sources: Sequence[Source], merged: MergedClasses) -> Iterator[RowRange]:
    """Yield all shards of the sources, in order, with new ids for images whose id is taken.

    Raises:
        StorageError: a shard cannot be read, or has other rows than its manifest says.
    """
    files = [
        (index, file) for index, source in enumerate(sources) for file in source.manifest.files
    ]
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        ids = list(pool.map(lambda item: _image_ids(sources[item[0]].url, item[1]), files))
    own = {image_id for of_file in ids for image_id in of_file}
    free = (number for number in count(1) if number not in own)
    unused = set(own)
    for (index, file), of_file in zip(files, ids, strict=True):
        new_ids = {}
        for row, image_id in enumerate(of_file):
            if image_id in unused:
                unused.remove(image_id)
            else:
                new_ids[row] = next(free)
        yield RowRange(sources[index].url, file, 0, file.rows, merged.labels[index], new_ids)


def _image_ids(shards_url: str, file: ShardFile) -> list[int]:
    try:
        with open_shard(shards_url, file.name) as shard:
            ids: list[int] = shard.read(columns=["image_id"]).column(0).to_pylist()
    except (OSError, pa.ArrowException) as error:
        url = storage.join(shards_url, file.name)
        raise storage.StorageError(f"{url}: cannot be read ({error})") from error
    if len(ids) != file.rows:
        url = storage.join(shards_url, file.name)
        raise storage.StorageError(f"{url}: {len(ids)} rows; its manifest says {file.rows}")
    return ids


def cut_into_shards(
    ranges: Sequence[RowRange], rows_per_shard: int
) -> Iterator[tuple[RowRange, ...]]:
    """Cut the sequence of all rows into shards."""
    shard: list[RowRange] = []
    room = rows_per_shard
    for source in ranges:
        first = source.first
        end = source.first + source.rows
        while first < end:
            rows = min(room, end - first)
            ids = {row: i for row, i in source.new_image_ids.items() if first <= row < first + rows}
            shard.append(replace(source, first=first, rows=rows, new_image_ids=ids))
            first, room = first + rows, room - rows
            if not room:
                yield tuple(shard)
                shard, room = [], rows_per_shard
    if shard:
        yield tuple(shard)
