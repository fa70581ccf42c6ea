"""Write the rows of one shard as a Parquet file, and describe it for the manifest."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.structures import ImageSize
from pipeline import storage
from pipeline.shards.image_contents import ContentsBuilder
from pipeline.shards.manifest import ShardFile
from pipeline.shards.shard_file import SCHEMA
from pipeline.storage.scratch import scratch_folder

# Encoded images do not compress, and their minimum and maximum are useless.
_PARQUET_OPTIONS = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


def write_shard_file(
    shards_url: str,
    name: str,
    groups: Iterable[Sequence[Mapping[str, Any]]],
    with_keypoints: bool,
) -> ShardFile | None:
    """Write a Parquet file atomically; return its description, None if there is no row.

    Args:
        shards_url: the folder to write to.
        name: file name of the shard.
        groups: the row groups, each a list of rows with the columns of `SCHEMA`.
        with_keypoints: whether the dataset has keypoints.

    Raises:
        StorageError: the store cannot be written.
    """
    sizes: list[ImageSize] = []
    row_groups: list[int] = []
    labeled_points: list[int] = []
    contents = ContentsBuilder()
    with scratch_folder("shard") as scratch:
        path = scratch / name
        with pq.ParquetWriter(path, SCHEMA, **_PARQUET_OPTIONS) as writer:
            for group in groups:
                table = pa.Table.from_pylist(list(group), SCHEMA)
                writer.write_table(table, row_group_size=len(group))
                row_groups.append(len(group))
                sizes += [ImageSize(row["height"], row["width"]) for row in group]
                for row in group:
                    contents.add(row["labels"], row["iscrowd"])
                if with_keypoints:
                    labeled_points += [_count_labeled_keypoints(row) for row in group]
        if not sizes:
            return None
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        storage.upload_file(path, storage.join(shards_url, name))
    file = ShardFile(
        name=name,
        rows=len(sizes),
        sha256=sha256,
        row_groups=tuple(row_groups),
        sizes=tuple(sizes),
        labelled_points=tuple(labeled_points),
    )
    return contents.add_to(file)


def _count_labeled_keypoints(row: Mapping[str, Any]) -> int:
    """Count the labeled keypoints of a row's objects, not of its crowd regions."""
    return sum(
        visibility > 0
        for points, iscrowd in zip(row["keypoints"], row["iscrowd"], strict=True)
        for visibility in points[2::3]
        if not iscrowd
    )
