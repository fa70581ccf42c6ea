"""A shard as a file: its columns, and how to read a part of it.

Without torch, so that the processes that only read start in a moment.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import filesystem, join

SCHEMA = pa.schema(
    [
        ("image_bytes", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.float64(), 4))),
        ("labels", pa.list_(pa.int64())),
        # Per object its polygons, each flat x y x y ...; empty where the mask is an RLE.
        ("polygons", pa.list_(pa.list_(pa.list_(pa.float64())))),
        # COCO's compressed counts on the image's canvas; null where the mask is polygons.
        ("rle", pa.list_(pa.string())),
        ("iscrowd", pa.list_(pa.bool_())),
        ("area", pa.list_(pa.float64())),
        ("annotation_id", pa.list_(pa.int64())),
        # Per object flat x y visibility x y visibility ...; null where the data set names none.
        ("keypoints", pa.list_(pa.list_(pa.float64()))),
    ]
)
"""Columns of a shard. Numbers are float64, so that COCO's decimals come back as they were."""


def read_row_group(shards_url: str, file: str, group: int, with_images: bool = True) -> pa.Table:
    """One row group of one shard, with or without the column of encoded images.

    Raises:
        OSError: the shard is missing or unreadable.
    """
    with open_shard(shards_url, file) as shard:
        return read_group_of(shard, group, with_images)


def read_group_of(shard: pq.ParquetFile, group: int, with_images: bool = True) -> pa.Table:
    """One row group of an open shard; columns of a newer schema than the shard's are null."""
    columns = columns_to_read(with_images)
    table = shard.read_row_group(group, columns=columns)
    if "keypoints" not in table.column_names:  # schema version 1
        nothing = pa.nulls(table.num_rows, SCHEMA.field("keypoints").type)
        table = table.append_column("keypoints", nothing)
    return table


def open_shard(shards_url: str, file: str) -> pq.ParquetFile:
    """The shard, to be closed."""
    store, path = filesystem(join(shards_url, file))
    return pq.ParquetFile(path, filesystem=store, pre_buffer=True)


def columns_to_read(with_images: bool) -> list[str]:
    """All columns, or all but the encoded images."""
    return SCHEMA.names if with_images else [n for n in SCHEMA.names if n != "image_bytes"]
