"""The columns of a Parquet shard, and functions that read its row groups.

Imports no torch, so that processes that only read start quickly.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage

SCHEMA = pa.schema(
    [
        ("image_bytes", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.float64(), 4))),
        ("labels", pa.list_(pa.int64())),
        # For each object its polygons, each a flat x y x y ...; empty if the mask is an RLE.
        ("polygons", pa.list_(pa.list_(pa.list_(pa.float64())))),
        # For each object COCO's compressed RLE counts; null if the mask is polygons.
        ("rle", pa.list_(pa.string())),
        ("iscrowd", pa.list_(pa.bool_())),
        ("area", pa.list_(pa.float64())),
        ("annotation_id", pa.list_(pa.int64())),
        # For each object a flat x y visibility x y visibility ...; null if the dataset has none.
        ("keypoints", pa.list_(pa.list_(pa.float64()))),
        # EXIF orientation that the stored pixels are turned by, and the significant bits of deep
        # images; see model.images.decode.
        ("orientation", pa.int8()),
        ("bit_depth", pa.int8()),
        # The dataset's own ids as JSON; null where ours are the same.
        ("source_image_id", pa.string()),
        ("source_annotation_id", pa.list_(pa.string())),
    ]
)
"""Columns of a shard. Coordinates are float64, so that COCO's decimals round-trip exactly."""


def read_row_group(shards_url: str, file: str, group: int, with_images: bool = True) -> pa.Table:
    """Read one row group of a shard, with or without the column of encoded images.

    Raises:
        OSError: the shard is missing or unreadable.
    """
    with open_shard(shards_url, file) as shard:
        return read_open_row_group(shard, group, with_images)


def read_open_row_group(shard: pq.ParquetFile, group: int, with_images: bool = True) -> pa.Table:
    """Read one row group of an open shard; columns that its schema version lacks become null."""
    columns = [name for name in SCHEMA.names if with_images or name != "image_bytes"]
    table = shard.read_row_group(group, columns=columns)
    for name in columns:
        if name not in table.column_names:
            nulls = pa.nulls(table.num_rows, SCHEMA.field(name).type)
            table = table.append_column(name, nulls)
    return table


def open_shard(shards_url: str, file: str) -> pq.ParquetFile:
    """Open a shard; the caller closes it."""
    store, path = storage.filesystem(storage.join(shards_url, file))
    return pq.ParquetFile(path, filesystem=store, pre_buffer=True)
