"""Write and read detections as rows of a Parquet file, one row per image.

Shapes: P keypoints.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.infer.detection_rows import DetectionRow

SCHEMA_VERSION = 3
"""2 has no model, model_digest and input_version, 1 no keypoints and source ids."""

_ROWS_PER_GROUP = 64
_TELLING_COLUMNS = {"image_id", "file_name", "boxes", "scores", "labels", "error"}

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
        # models:/name/version or the URL of the weights, and the SHA-256 of weights and settings.
        ("model", pa.string()),
        ("model_digest", pa.string()),
        # Of the file that the image was read from: the ETag of an object in S3, the size and the
        # time of the last change of a local file, the SHA-256 of a shard.
        ("input_version", pa.string()),
    ]
)


class DetectionsFile:
    """A file of detections that is written row by row and appears when it is complete.

    What is held in memory is compressed, except for the rows of the last row group.

    Args:
        url: of the file.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._rows: list[DetectionRow] = []
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, SCHEMA, compression="zstd")

    def add(self, row: DetectionRow) -> None:
        """Add the detections of an image."""
        self._rows.append(row)
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def write(self) -> int:
        """Write the file atomically and return its size in bytes."""
        if self._rows:
            self._flush()
        self._writer.close()
        content = self._sink.getvalue().to_pybytes()
        storage.write_bytes(self._url, content)
        return len(content)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._writer.write_table(pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA))


def write_detection_rows(url: str, rows: Iterable[DetectionRow]) -> int:
    """Write a Parquet file atomically and return its size in bytes."""
    file = DetectionsFile(url)
    for row in rows:
        file.add(row)
    return file.write()


def read_detection_rows(url: str) -> list[DetectionRow]:
    """Read the rows of a file of detections.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    return list(iterate_detection_rows(url))


def iterate_detection_rows(url: str) -> Iterator[DetectionRow]:
    """Yield the rows of a file of detections, of which a few are in memory at a time.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    content = storage.read_bytes(url)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        for batch in file.iter_batches(_ROWS_PER_GROUP):
            for row in batch.to_pylist():
                yield DetectionRow(**row)
    except (OSError, pa.ArrowException, TypeError) as error:
        raise _incomplete(url, error) from error


def iterate_errors(url: str) -> Iterator[tuple[int, str, str]]:
    """Yield id, name and error of each image of a file that could not be read.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    content = storage.read_bytes(url)
    columns = ["image_id", "file_name", "error"]
    try:
        table = pq.read_table(pa.BufferReader(content), columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _incomplete(url, error) from error
    for row in table.filter(table["error"].is_valid()).to_pylist():
        yield row["image_id"], row["file_name"], row["error"]


def is_detections_file(url: str) -> bool:
    """Whether a Parquet file has detections, by its columns; False if it cannot be read."""
    store, path = storage.filesystem(url)
    try:
        with store.open_input_file(path) as file:
            return _TELLING_COLUMNS.issubset(pq.read_schema(file).names)
    except (OSError, pa.ArrowException):
        return False


def _incomplete(url: str, error: Exception) -> storage.StorageError:
    return storage.StorageError(
        f"{url}: not a complete file of detections ({error}); delete it and start the job again, "
        "which writes it"
    )
