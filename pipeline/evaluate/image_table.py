"""The per-image table of an evaluation: one Parquet row per image, with its counts and matches.

Shapes: I images, N detections, T IoU thresholds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.evaluate.image_matches import IOU_THRESHOLDS, Bools, ImageMatches, Integers
from pipeline.evaluate.image_summary import ImageSummary, summarize_images
from pipeline.storage.records import parse_record

IMAGE_TABLE = "images.parquet"
"""Name of the file in the folder of an evaluation."""

SCHEMA_VERSION = 1
_METADATA = b"maskrcnn_ray"
_BITS = 1 << np.arange(len(IOU_THRESHOLDS))


@dataclass(frozen=True)
class TableOrigin:
    """What was evaluated, how, and on which data; kept in the metadata of the file.

    Args:
        weights: checkpoint URL or registered version.
        model_digest: SHA-256 of weights and settings.
        shards: URL of the dataset.
        dataset_digest: digest of the dataset.
        categories: category id -> name.
        max_detections: detections of a class in an image that count.
        score_threshold: score from which on a detection counts as missed, matched or false.
        version: of this format.
    """

    weights: str
    model_digest: str
    shards: str
    dataset_digest: str
    categories: dict[int, str]
    max_detections: int
    score_threshold: float
    version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class ImageTable:
    """The results of one detector on each image of a dataset.

    Args:
        origin: what was evaluated.
        image_ids: (I,) ascending.
        file_names: of each image.
        errors: why an image could not be read, by index; such images have no detections.
        matches: kind ("bbox", "segm", "keypoints") -> matches, whose ``image_ids`` are these.
    """

    origin: TableOrigin
    image_ids: Integers
    file_names: tuple[str, ...]
    errors: dict[int, str]
    matches: dict[str, ImageMatches]

    def summary(self, kind: str) -> ImageSummary:
        """Return the counts and the score of each image."""
        return summarize_images(self.matches[kind], self.origin.score_threshold)


def write_image_table(url: str, table: ImageTable) -> None:
    """Write a table as a Parquet file, atomically.

    Columns: ``image_id``, ``file_name``, ``error`` (null if the image was read), ``weights``,
    ``model_digest``; then for each kind, as ``bbox/objects``, ..., those of `ImageSummary`, and
    lists with one element per detection: ``classes`` (category ids), ``scores``, ``matched_bits``
    and ``ignored_bits`` (bit t for IoU threshold t), and per object: ``object_classes``.
    """
    count, origin = len(table.image_ids), table.origin
    columns: dict[str, pa.Array] = {
        "image_id": pa.array(table.image_ids, pa.int64()),
        "file_name": pa.array(table.file_names, pa.string()),
        "error": pa.array([table.errors.get(n) for n in range(count)], pa.string()),
        "weights": pa.array([origin.weights] * count, pa.string()),
        "model_digest": pa.array([origin.model_digest] * count, pa.string()),
    }
    for kind, matches in table.matches.items():
        columns |= {
            f"{kind}/{name}": column
            for name, column in _kind_columns(matches, table.summary(kind)).items()
        }
    metadata = {_METADATA: json.dumps(asdict(origin)).encode()}
    arrow = pa.table(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(arrow, sink, compression="zstd")
    storage.write_bytes(url, sink.getvalue().to_pybytes())


def read_image_table(url: str) -> ImageTable:
    """Read a table that `write_image_table` wrote.

    Raises:
        MissingFileError: there is none.
        DamagedRecordError: it is no such table, or of another version.
    """
    remedy = "delete it and evaluate again"
    content = storage.read_bytes(url)
    try:
        arrow = pq.read_table(pa.BufferReader(content))
        document = json.loads((arrow.schema.metadata or {})[_METADATA])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise storage.DamagedRecordError(
            f"{url} is not a complete table of an evaluation ({type(error).__name__}: {error}); "
            f"{remedy}"
        ) from None
    origin = parse_record(document, TableOrigin, url, remedy)
    if origin.version != SCHEMA_VERSION:
        raise storage.DamagedRecordError(
            f"{url} has version {origin.version} of the table, this program reads version "
            f"{SCHEMA_VERSION}; evaluate again"
        )
    try:
        return _from_arrow(arrow, origin)
    except (KeyError, IndexError, ValueError, pa.ArrowException) as error:
        raise storage.DamagedRecordError(
            f"{url} is damaged or was edited ({type(error).__name__}: {error}); {remedy}"
        ) from None


def _kind_columns(matches: ImageMatches, summary: ImageSummary) -> dict[str, pa.Array]:
    count = len(matches.image_ids)
    offsets = np.searchsorted(matches.images, np.arange(count + 1))
    object_offsets = np.searchsorted(matches.object_images, np.arange(count + 1))
    score = pa.array(summary.score, pa.float64(), mask=np.isnan(summary.score))
    numbers = {
        name: pa.array(values, pa.int32())
        for name, values in vars(summary).items()
        if name != "score"
    }
    by_detection = {
        "classes": pa.array(matches.class_ids[matches.classes], pa.int64()),
        "scores": pa.array(matches.scores, pa.float64()),
        "matched_bits": pa.array(_pack(matches.matched), pa.uint16()),
        "ignored_bits": pa.array(_pack(matches.ignored), pa.uint16()),
    }
    object_classes = pa.array(matches.class_ids[matches.object_classes], pa.int64())
    return {
        **numbers,
        "score": score,
        **{name: _lists(offsets, values) for name, values in by_detection.items()},
        "object_classes": _lists(object_offsets, object_classes),
    }


def _from_arrow(arrow: pa.Table, origin: TableOrigin) -> ImageTable:
    columns: Mapping[str, Any] = {
        name: arrow.column(name).combine_chunks() for name in arrow.column_names
    }
    image_ids = columns["image_id"].to_numpy()
    kinds = [name.removesuffix("/scores") for name in columns if name.endswith("/scores")]
    errors = enumerate(columns["error"].to_pylist())
    return ImageTable(
        origin=origin,
        image_ids=image_ids,
        file_names=tuple(columns["file_name"].to_pylist()),
        errors={n: error for n, error in errors if error is not None},
        matches={kind: _kind_matches(columns, kind, image_ids, origin) for kind in kinds},
    )


def _kind_matches(
    columns: Mapping[str, Any], kind: str, image_ids: Integers, origin: TableOrigin
) -> ImageMatches:
    class_ids = np.array(sorted(origin.categories), dtype=np.int64)

    def flat(name: str) -> Any:
        return columns[f"{kind}/{name}"].flatten().to_numpy()

    def images(name: str) -> Integers:
        lengths = columns[f"{kind}/{name}"].value_lengths().to_numpy()
        return np.arange(len(image_ids)).repeat(lengths)

    def classes(name: str) -> Integers:
        ids = flat(name)
        index: Integers = np.searchsorted(class_ids, ids)
        if not np.array_equal(class_ids[index], ids):
            raise ValueError(f"{kind}/{name} has classes that the metadata lacks")
        return index

    return ImageMatches(
        image_ids=image_ids,
        class_ids=class_ids,
        images=images("scores"),
        classes=classes("classes"),
        scores=flat("scores"),
        matched=_unpack(flat("matched_bits")),
        ignored=_unpack(flat("ignored_bits")),
        object_images=images("object_classes"),
        object_classes=classes("object_classes"),
    )


def _lists(offsets: Integers, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _pack(flags: Bools) -> Integers:
    return flags @ _BITS


def _unpack(bits: Integers) -> Bools:
    return (bits[:, None].astype(np.int64) & _BITS) > 0
