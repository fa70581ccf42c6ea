"""Write and read detections as rows of a Parquet file, one row per image.

Shapes: P keypoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model import Predictor
from pipeline import storage
from pipeline.infer.detection_stream import ImagePrediction
from pipeline.infer.inputs import InputImage
from pipeline.shards.keypoints import coco_keypoints

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


@dataclass(frozen=True)
class DetectionRow:
    """One image's detections as they are written; see ``SCHEMA``."""

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
    source_image_id: str | None = None


def detection_row(
    prediction: ImagePrediction[InputImage], predictor: Predictor, score_threshold: float
) -> DetectionRow:
    """Convert one image's prediction to a row.

    Args:
        prediction: the image's detections, or the error.
        predictor: provides the names of categories and keypoints.
        score_threshold: in [0, 1]; detections with a lower score are left out.
    """
    image = prediction.image
    if prediction.detections is None:
        return DetectionRow(
            image_id=image.image_id,
            file_name=image.file_name,
            height=None,
            width=None,
            boxes=[],
            scores=[],
            labels=[],
            category_ids=[],
            category_names=[],
            masks_rle=None,
            error=prediction.error or "no prediction",
            source_image_id=image.source_id,
        )
    kept = prediction.detections.above(score_threshold)
    labels = kept.labels.tolist()
    head, has_classes = predictor.config.keypoint, not predictor.config.is_proposal_network
    categories = [predictor.categories[label - 1] for label in labels] if has_classes else []
    return DetectionRow(
        image_id=image.image_id,
        file_name=image.file_name,
        height=kept.image_size.height,
        width=kept.image_size.width,
        boxes=kept.boxes.tolist(),
        scores=kept.scores.tolist(),
        labels=labels,
        category_ids=[category.id for category in categories] if has_classes else None,
        category_names=[category.name for category in categories] if has_classes else None,
        masks_rle=None if kept.masks is None else kept.rle(),
        error=None,
        keypoints=None if kept.keypoints is None else kept.keypoints.tolist(),
        keypoint_names=None if kept.keypoints is None or head is None else list(head.names),
        source_image_id=image.source_id,
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


def coco_results(row: DetectionRow) -> list[dict[str, Any]]:
    """Convert a row to COCO's results format, with the dataset's category ids.

    Proposals get category id 1, as in COCO's results of proposal networks.
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
            # Every keypoint is marked visible, as in COCO's results format.
            result["keypoints"] = coco_keypoints([x, y, 1] for x, y, _ in row.keypoints[n])
        results.append(result)
    return results
