"""Write one shard from rows of existing shards."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from model.images.decode import STORED
from pipeline import storage
from pipeline.ingest.shard_output import write_shard_file
from pipeline.ingest.shard_task import ShardReport
from pipeline.shards.aspect_bins import BIN_COUNT, aspect_bins
from pipeline.shards.manifest import ShardFile
from pipeline.shards.shard_file import open_shard, read_open_row_group

_OF_OBJECTS = (
    *("boxes", "labels", "polygons", "rle", "iscrowd", "area", "annotation_id"),
    *("keypoints", "source_annotation_id"),
)
"""Columns with one entry for each object; null if the dataset or its schema version has none."""

_FORMER_BIT_DEPTH = 16  # of schema versions 1 and 2, which have no column for it


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of an existing shard.

    Args:
        shards_url: its folder.
        file: the shard.
        first: index of the first row.
        labels: label of each of its classes in the new shards; 0 leaves the objects out.
        new_image_ids: index of a row -> its image id in the new shards, if it changes.
        rows: number of rows.
    """

    shards_url: str
    file: ShardFile
    first: int
    rows: int
    labels: tuple[int, ...]
    new_image_ids: dict[int, int]


@dataclass(frozen=True)
class MergeTask:
    """What to write into one shard.

    Args:
        name: file name of the shard.
        shards_url: folder to write it to.
        sources: its rows.
        rows_per_group: images per row group.
        report_url: where to store the report of the finished shard.
        keypoint_count: number of keypoints of the new shards.
    """

    name: str
    shards_url: str
    sources: tuple[RowRange, ...]
    rows_per_group: int
    report_url: str
    keypoint_count: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(source.rows for source in self.sources)


def write_merged_shard(task: MergeTask) -> ShardReport:
    """Write one Parquet file atomically.

    Memory: about one row group of the sources and one of the new shard.

    Raises:
        StorageError: a source cannot be read, or the store cannot be written.
    """
    counts: Counter[str] = Counter()
    groups = _row_groups(task, counts)
    file = write_shard_file(task.shards_url, task.name, groups, task.keypoint_count > 0)
    return ShardReport(file, dict(counts), ())


def _row_groups(task: MergeTask, counts: Counter[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield full row groups of one aspect bin each; the last of each may be shorter."""
    for number in range(BIN_COUNT):
        group: list[dict[str, Any]] = []
        for source in task.sources:
            for row in _rows_of_bin(source, number):
                group.append(_convert(*row, source, task.keypoint_count, counts))
                if len(group) == task.rows_per_group:
                    yield group
                    group = []
        if group:
            yield group


def _rows_of_bin(source: RowRange, number: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the index and the columns of each row of an aspect bin; reads no other row groups."""
    chosen = np.zeros(source.file.rows, dtype=bool)
    chosen[source.first : source.first + source.rows] = True
    chosen &= aspect_bins(source.file.sizes) == number
    if not chosen.any():
        return
    starts = np.cumsum([0, *source.file.row_groups])
    try:
        with open_shard(source.shards_url, source.file.name) as shard:
            for group, start in enumerate(starts[:-1].tolist()):
                rows = start + np.flatnonzero(chosen[start : starts[group + 1]])
                if len(rows):
                    table = read_open_row_group(shard, group).take(pa.array(rows - start))
                    yield from zip(rows.tolist(), table.to_pylist(), strict=True)
    except (OSError, pa.ArrowException, KeyError) as error:
        url = storage.join(source.shards_url, source.file.name)
        raise storage.StorageError(
            f"{url}: cannot be read ({error}); maskrcnn-ray prepare_shards --check lists what is "
            "damaged in existing shards"
        ) from error


def _convert(
    index: int, row: dict[str, Any], source: RowRange, keypoint_count: int, counts: Counter[str]
) -> dict[str, Any]:
    """Return a row in the classes, image ids and keypoints of the new shards, and count it."""
    labels = [source.labels[label - 1] for label in row["labels"]]
    kept = [index for index, label in enumerate(labels) if label]
    counts["other_classes"] += len(labels) - len(kept)
    row["labels"] = labels
    for name in _OF_OBJECTS:
        if row[name] is not None:
            row[name] = [row[name][index] for index in kept]
    new_id = source.new_image_ids.get(index)
    if new_id is not None:
        row["source_image_id"] = row["source_image_id"] or json.dumps(row["image_id"])
        row["image_id"] = new_id
    if row["orientation"] is None:
        row["orientation"], row["bit_depth"] = STORED, _FORMER_BIT_DEPTH
    if keypoint_count == 0:
        row["keypoints"] = None
    elif row["keypoints"] is None:
        row["keypoints"] = [[0.0] * 3 * keypoint_count for _ in kept]
    _count(row, counts)
    return row


def _count(row: dict[str, Any], counts: Counter[str]) -> None:
    crowd = row["iscrowd"]
    counts["images"] += 1
    counts["images_without_objects"] += all(crowd)
    counts["images_turned"] += row["orientation"] != STORED
    counts["crowd"] += sum(crowd)
    counts["objects"] += len(crowd) - sum(crowd)
    masks = zip(row["polygons"], row["rle"], crowd, strict=True)
    counts["without_mask"] += sum(
        not (polygons or rle is not None or is_crowd) for polygons, rle, is_crowd in masks
    )
    if row["keypoints"] is not None:
        counts["with_keypoints"] += sum(
            any(visibility > 0 for visibility in points[2::3]) and not is_crowd
            for points, is_crowd in zip(row["keypoints"], crowd, strict=True)
        )
