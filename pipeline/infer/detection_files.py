"""Write and read detections as rows of a Parquet file, one row per image.

Shapes: P keypoints.
"""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.infer.detection_rows import DetectionRow

SCHEMA_VERSION = 2

_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        # Null if the image could not be read; ``error`` gives the reason.
        ("height", pa.int32()),
        ("width", pa.int32()),
        # x1 y1 x2 y2, pixels of the image, by descending score.
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int64())),
        # Ids and names are null for a proposal network, whose only label 1 means "object".
        ("category_ids", pa.list_(pa.int64())),
        ("category_names", pa.list_(pa.string())),
        # COCO's compressed run lengths; null for a detector without masks.
        ("masks_rle", pa.list_(_RLE)),
        ("error", pa.string()),
        # P rows of x, y (pixels of the image) and score (a logit) per detection. Keypoints and
        # their P names are null for a detector without keypoints.
        ("keypoints", pa.list_(pa.list_(pa.list_(pa.float32(), 3)))),
        ("keypoint_names", pa.list_(pa.string())),
        # The dataset's id of the image as JSON; null if image_id is the same.
        ("source_image_id", pa.string()),
    ]
)


def write_detection_rows(url: str, rows: Iterable[DetectionRow]) -> int:
    """Write a Parquet file atomically and return its size in bytes."""
    table = pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    storage.write_bytes(url, content)
    return len(content)


def read_detection_rows(url: str) -> list[DetectionRow]:
    """Read the rows of a file that ``write_detection_rows`` wrote.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    content = storage.read_bytes(url)
    try:
        table = pq.read_table(pa.BufferReader(content))
        return [DetectionRow(**row) for row in table.to_pylist()]
    except (OSError, pa.ArrowException, TypeError) as error:
        raise storage.StorageError(
            f"{url}: not a complete file of detections ({error}); delete it and start the job "
            "again, which writes it"
        ) from error
