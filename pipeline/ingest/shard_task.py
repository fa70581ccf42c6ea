"""Write one shard: read its images, validate every record, and store the valid ones as rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipeline.config.data_tiles import DataTilesConfig
from pipeline.ingest.listing import ImageRecord
from pipeline.ingest.load_image import LoadedImage, load_image, read_size
from pipeline.ingest.rejects import Reject
from pipeline.ingest.shard_output import write_shard_file
from pipeline.ingest.shard_rows import RowBuilder
from pipeline.ingest.tiles import cut_row
from pipeline.shards.aspect_bins import BIN_COUNT, aspect_bins
from pipeline.shards.decoding import DEFAULT_DECODING, Decoding
from pipeline.shards.manifest import ShardFile

_READ_THREADS = 8  # they mostly wait for the store


@dataclass(frozen=True)
class ShardTask:
    """What to write into one shard.

    Args:
        name: file name of the shard.
        shards_url: folder to write it to.
        images: its images, in order.
        labels: category id -> label 1..K.
        rows_per_group: images per row group.
        report_url: where to store the report of the finished shard.
        keypoint_count: number of keypoints the dataset defines.
        decoding: settings of the dataset's images.
        tiles: how images are cut into tiles; None keeps them whole.
        numbers: image id -> number of the image in its split; needed for tiles.
    """

    name: str
    shards_url: str
    images: tuple[ImageRecord, ...]
    labels: dict[int, int]
    rows_per_group: int
    report_url: str
    keypoint_count: int = 0
    decoding: Decoding = DEFAULT_DECODING
    tiles: DataTilesConfig | None = None
    numbers: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardReport:
    """The result of a task; ``file`` is None if no image was valid."""

    file: ShardFile | None
    counts: dict[str, int]
    rejects: tuple[Reject, ...]


def write_shard(task: ShardTask) -> ShardReport:
    """Write one Parquet file atomically.

    Memory: about two row groups of encoded images.

    Raises:
        StorageError: the store cannot be read or written. A missing image is not an error; it is
            quarantined.
    """
    builder = RowBuilder(task.labels, task.keypoint_count, task.decoding)
    groups = _row_groups(task, builder)
    file = write_shard_file(task.shards_url, task.name, groups, task.keypoint_count > 0)
    return ShardReport(file, dict(builder.counts), tuple(builder.rejects))


def _row_groups(task: ShardTask, builder: RowBuilder) -> Iterator[list[dict[str, Any]]]:
    """Yield full row groups of one aspect bin each; the last of each may be shorter."""
    load = partial(load_image, decoding=task.decoding)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        records = _with_sizes(task, pool)
        # Without a size the image is unusable, and `load_image` says why.
        bins = aspect_bins([image.size or (1, 1) for image in records])
        # Of tiles too: most are square, whatever their image is.
        waiting: list[list[dict[str, Any]]] = [[] for _ in range(BIN_COUNT)]
        for number in range(BIN_COUNT):
            images = [records[index] for index in np.flatnonzero(bins == number)]
            for first in range(0, len(images), task.rows_per_group):
                chunk = images[first : first + task.rows_per_group]
                for image, loaded in zip(chunk, pool.map(load, chunk), strict=True):
                    if isinstance(loaded, Reject):
                        builder.quarantine_image(image, loaded)
                        continue
                    for row in _rows(task, builder, loaded):
                        [of_row] = aspect_bins([(row["height"], row["width"])])
                        waiting[of_row].append(row)
                        if task.tiles is not None and len(waiting[of_row]) == task.rows_per_group:
                            yield waiting[of_row]
                            waiting[of_row] = []
                group = waiting[number]
                if len(group) >= task.rows_per_group:
                    yield group[: task.rows_per_group]
                    waiting[number] = group[task.rows_per_group :]
            if task.tiles is None and waiting[number]:
                yield waiting[number]
                waiting[number] = []
        yield from filter(None, waiting)


def _rows(task: ShardTask, builder: RowBuilder, loaded: LoadedImage) -> Iterator[dict[str, Any]]:
    """Yield the row of an image, or those of its tiles."""
    row = builder.build(loaded)
    if task.tiles is None:
        yield row
        return
    yield from cut_row(row, task.numbers[row["image_id"]], task.tiles, builder.counts)


def _with_sizes(task: ShardTask, pool: ThreadPoolExecutor) -> list[ImageRecord]:
    """Return the task's images, with sizes from the files where the annotations have none."""
    records = list(task.images)
    missing = [index for index, image in enumerate(records) if image.size is None]
    read = partial(read_size, decoding=task.decoding)
    for index, record in zip(missing, pool.map(read, [records[i] for i in missing]), strict=True):
        records[index] = record
    return records
