"""Detections as rows, one row per image, and in COCO's results format."""

from dataclasses import dataclass, replace
from typing import Any

from model import Predictor
from pipeline.infer.detection_stream import ImagePrediction
from pipeline.infer.input_image import InputImage
from pipeline.shards.keypoints import coco_keypoints


@dataclass(frozen=True)
class DetectionRow:
    """One image's detections as they are written; see ``SCHEMA`` of `detection_files`."""

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
    model: str | None = None
    model_digest: str | None = None
    input_version: str | None = None

    def above(self, score_threshold: float) -> "DetectionRow":
        """Return the row without the detections of a lower score."""
        count = sum(score >= score_threshold for score in self.scores)  # they descend
        return replace(
            self,
            boxes=self.boxes[:count],
            scores=self.scores[:count],
            labels=self.labels[:count],
            category_ids=self.category_ids and self.category_ids[:count],
            category_names=self.category_names and self.category_names[:count],
            masks_rle=self.masks_rle and self.masks_rle[:count],
            keypoints=self.keypoints and self.keypoints[:count],
        )


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
            input_version=image.version,
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
        input_version=image.version,
    )


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
