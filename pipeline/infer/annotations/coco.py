"""Detections as a COCO dataset, which labeling tools import and `prepare_shards` reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from model.structures import Category
from pipeline.infer.annotations.mask_polygons import Outline
from pipeline.infer.detection_rows import DetectionRow
from pipeline.shards.keypoints import coco_keypoints


def coco_image(row: DetectionRow) -> dict[str, Any]:
    """Return the entry of an image in the list ``images``."""
    return {
        "id": row.image_id,
        "file_name": row.file_name,
        "height": row.height,
        "width": row.width,
    }


def coco_annotations(
    row: DetectionRow, outlines: Sequence[Outline] | None, first_id: int
) -> list[dict[str, Any]]:
    """Return the entries of an image's objects in the list ``annotations``.

    Args:
        row: the image's detections.
        outlines: of each object; None for a detector without masks.
        first_id: id of the first of them.
    """
    annotations = []
    for n, (x1, y1, x2, y2) in enumerate(row.boxes):
        outline = None if outlines is None else outlines[n]
        annotation: dict[str, Any] = {
            "id": first_id + n,
            "image_id": row.image_id,
            "category_id": 1 if row.category_ids is None else row.category_ids[n],
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 2) if outline is None else outline.pixels,
            "iscrowd": 0,
            "segmentation": [] if outline is None else outline.flat(),
            "score": round(row.scores[n], 4),
        }
        if row.keypoints is not None:
            points = [(round(x, 2), round(y, 2), 2) for x, y, _ in row.keypoints[n]]
            annotation["keypoints"] = coco_keypoints(points)
            annotation["num_keypoints"] = len(points)
        annotations.append(annotation)
    return annotations


def coco_categories(
    categories: Sequence[Category], keypoint_names: Sequence[str] | None
) -> list[Mapping[str, Any]]:
    """Return the list ``categories``; that of a proposal network, which has none, is ``object``."""
    keypoints = {} if keypoint_names is None else {"keypoints": list(keypoint_names)}
    named = categories or (Category(1, "object"),)
    return [{"id": each.id, "name": each.name, **keypoints} for each in named]
