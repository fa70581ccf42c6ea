"""Detections as rows of a Parquet file, and back.

Shapes: R detections, P keypoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model import Detector
from pipeline import storage
from pipeline.infer.predictor import ImagePrediction
from pipeline.shards.keypoints import coco_keypoints

SCHEMA_VERSION = 2

_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        # Null where the image could not be read; ``error`` tells why.
        ("height", pa.int32()),
        ("width", pa.int32()),
        # x1 y1 x2 y2, pixels of the image; best first.
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int64())),
        # Null, as their names, from a proposal network, whose label 1 says "object".
        ("category_ids", pa.list_(pa.int64())),
        ("category_names", pa.list_(pa.string())),
        # COCO's compressed run lengths; null from a detector without masks.
        (
            "masks_rle",
            pa.list_(_RLE),
        ),
        ("error", pa.string()),
        # Per detection P times x, y (pixels of the image) and a score, a logit; null, as the P
        # names, from a detector without keypoints.
        ("keypoints", pa.list_(pa.list_(pa.list_(pa.float32(), 3)))),
        ("keypoint_names", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class PredictedRow:
    """One image's detections as they were written; see ``SCHEMA``."""

    image_id: int
    file_name: str
    height: int | None
    width: int | None
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    category_ids: list[int] | None
    category_names: list[str] | None
    masks_rle: list[dict[str, Any]] | None
    error: str | None
    keypoints: list[list[list[float]]] | None = None
    keypoint_names: list[str] | None = None


def row_of(prediction: ImagePrediction, detector: Detector, least_score: float) -> PredictedRow:
    """The row of one image; detections below ``least_score`` are left out.

    Args:
        prediction: what the detector found.
        detector: names the categories and the keypoints.
        least_score: in [0, 1].
    """
    image, found = prediction.image, prediction.detections
    if found is None:
        error = prediction.error or "no prediction"
        return PredictedRow(
            image.image_id, image.file_name, None, None, [], [], [], [], [], None, error
        )
    kept = found.above(least_score)
    labels = kept.labels.tolist()
    head, known = detector.config.keypoint, not detector.config.is_proposal_network
    named = [detector.categories[label - 1] for label in labels] if known else []
    return PredictedRow(
        image_id=image.image_id,
        file_name=image.file_name,
        height=kept.image_size.height,
        width=kept.image_size.width,
        boxes=kept.boxes.tolist(),
        scores=kept.scores.tolist(),
        labels=labels,
        category_ids=[category.id for category in named] if known else None,
        category_names=[category.name for category in named] if known else None,
        masks_rle=None if kept.masks is None else kept.rle(),
        error=None,
        keypoints=None if kept.keypoints is None else kept.keypoints.tolist(),
        keypoint_names=None if kept.keypoints is None or head is None else list(head.names),
    )


def write_rows(url: str, rows: Iterable[PredictedRow]) -> int:
    """Write a Parquet file, atomically; returns its size in bytes."""
    table = pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    storage.write_bytes(url, content)
    return len(content)


def read_predictions(url: str) -> list[PredictedRow]:
    """The rows of one file that ``write_rows`` wrote.

    Raises:
        StorageError: it is missing or unreadable.
    """
    table = pq.read_table(pa.BufferReader(storage.read_bytes(url)))
    return [PredictedRow(**row) for row in table.to_pylist()]


def coco_results(row: PredictedRow) -> list[dict[str, Any]]:
    """The row's detections in COCO's results format, with the data set's category ids.

    Those of a proposal network have the number 1, as in COCO's results of proposals.
    """
    results = []
    for n, (x1, y1, x2, y2) in enumerate(row.boxes):
        result = {
            "image_id": row.image_id,
            "category_id": 1 if row.category_ids is None else row.category_ids[n],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": row.scores[n],
        }
        if row.masks_rle is not None:
            result["segmentation"] = row.masks_rle[n]
        if row.keypoints is not None:
            # Every found point counts as visible, as in the results that COCO's server takes.
            result["keypoints"] = coco_keypoints([x, y, 1] for x, y, _ in row.keypoints[n])
        results.append(result)
    return results
