"""detectron2's dataset dicts as a COCO document.

Source: detectron2's documentation, "Use Custom Datasets". Its category ids count from 0, its boxes
state their form, and its keypoints are half a pixel higher than COCO's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.shards.keypoints import PIXEL_CENTER

_XYXY, _XYWH = 0, 1  # detectron2.structures.BoxMode
_COPIED = ("segmentation", "iscrowd", "area")


def coco_document(
    dicts: Sequence[Mapping[str, Any]], classes: Sequence[str | Mapping[str, Any]]
) -> dict[str, Any]:
    """Convert dataset dicts.

    Args:
        dicts: one per image: ``file_name``, and optionally ``image_id``, ``height``, ``width`` and
            ``annotations``.
        classes: in the order of ``category_id``: names, or COCO categories, which may have
            keypoints.

    Raises:
        ValueError: a box has another form, or a category id has no class.
        TypeError, LookupError: an entry is missing or of another type.
    """
    categories = [
        {**({"name": each} if isinstance(each, str) else each), "id": number}
        for number, each in enumerate(classes, start=1)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(dicts):
        image_id = record.get("image_id", number)
        image = {"id": image_id, "file_name": str(record["file_name"])}
        images.append(image | {key: record[key] for key in ("height", "width") if key in record})
        annotations += [
            {"id": number, "image_id": image_id, **_annotation(annotation, len(categories))}
            for number, annotation in enumerate(
                record.get("annotations", ()), start=len(annotations) + 1
            )
        ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(annotation: Mapping[str, Any], classes: int) -> dict[str, Any]:
    label = int(annotation["category_id"])
    if not 0 <= label < classes:
        raise ValueError(f"category_id {label} has no class: there are {classes}, counted from 0")
    converted = {key: annotation[key] for key in _COPIED if key in annotation}
    converted |= {"category_id": label + 1, "bbox": _box(annotation)}
    if (points := annotation.get("keypoints")) is not None:
        converted["keypoints"] = [
            value - PIXEL_CENTER if place % 3 != 2 else int(value)
            for place, value in enumerate(points)
        ]
    return converted


def _box(annotation: Mapping[str, Any]) -> list[float]:
    """Return x, y, width and height."""
    first, second, third, fourth = map(float, annotation["bbox"])
    mode = annotation["bbox_mode"]
    if int(mode) == _XYWH:
        return [first, second, third, fourth]
    if int(mode) == _XYXY:
        return [first, second, third - first, fourth - second]
    raise ValueError(f"bbox_mode {mode!r} is neither XYXY_ABS (0) nor XYWH_ABS (1)")
