"""Read some images of a dataset, and what was predicted on them, without reading all of it."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.infer.detection_rows import DetectionRow
from pipeline.infer.inputs import plan_shards
from pipeline.infer.ledger import output_url
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import ShardRow, rows_from_arrow
from pipeline.shards.shard_file import open_shard, read_open_row_group


def read_selected_rows(shards_url: str, image_ids: Collection[int]) -> dict[int, ShardRow]:
    """Return the rows with these image ids; row groups without them are not read.

    Raises:
        StorageError: there are no shards.
        OSError: a shard is missing or unreadable.
    """
    wanted = set(image_ids)
    rows: dict[int, ShardRow] = {}
    for file in read_manifest(shards_url).files:
        if len(rows) == len(wanted):
            break
        with open_shard(shards_url, file.name) as shard:
            for group in range(shard.num_row_groups):
                ids = shard.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
                places = [n for n, image_id in enumerate(ids) if image_id in wanted]
                if places:
                    table = read_open_row_group(shard, group).take(places)
                    rows |= {row.image_id: row for row in rows_from_arrow(table)}
    return rows


def read_selected_detections(
    shards_url: str, predictions_url: str, image_ids: Collection[int]
) -> dict[int, DetectionRow]:
    """Return the detections of these images.

    Args:
        shards_url: the dataset.
        predictions_url: the prediction files of its shards.
        image_ids: those that are wanted.

    Raises:
        StorageError: a file is missing or damaged.
    """
    rows: dict[int, DetectionRow] = {}
    for chunk in plan_shards(shards_url):
        if len(rows) == len(image_ids):
            break
        url = output_url(predictions_url, chunk.name)
        content = storage.read_bytes(url)
        try:
            table = pq.read_table(
                pa.BufferReader(content), filters=[("image_id", "in", list(image_ids))]
            )
            rows |= {row["image_id"]: DetectionRow(**row) for row in table.to_pylist()}
        except (OSError, pa.ArrowException, TypeError) as error:
            raise storage.DamagedRecordError(
                f"{url}: not a complete file of detections ({error}); delete it and evaluate again"
            ) from error
    return rows
