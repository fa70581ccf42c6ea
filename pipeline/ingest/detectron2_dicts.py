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
        ValueError: an entry is missing, a box has another form, or a category id has no class.
        TypeError: something is of another type.
    """
    if not isinstance(classes, list | tuple):
        raise TypeError(f"the classes must be a list, in order; got {type(classes).__name__}")
    categories = [
        {**({"name": each} if isinstance(each, str) else each), "id": number}
        for number, each in enumerate(classes, start=1)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(dicts):
        where = f"dataset dict {number}"
        file_name = str(_entry(record, "file_name", where))
        image_id = record.get("image_id", number)
        sizes = {key: record[key] for key in ("height", "width") if key in record}
        images.append({"id": image_id, "file_name": file_name} | sizes)
        for index, annotation in enumerate(record.get("annotations") or ()):
            converted = _annotation(
                annotation, len(categories), f"annotation {index} of {file_name}"
            )
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(ids | converted)
    return {"images": images, "annotations": annotations, "categories": categories}


def _entry(record: Any, key: str, where: str) -> Any:
    if not isinstance(record, Mapping):
        raise TypeError(f"{where} is no dict but a {type(record).__name__}")
    if key not in record:
        raise ValueError(f"{where} has no {key}")
    return record[key]


def _annotation(annotation: Any, classes: int, where: str) -> dict[str, Any]:
    label = int(_entry(annotation, "category_id", where))
    if not 0 <= label < classes:
        raise ValueError(
            f"{where}: category_id {label} has no class: there are {classes}, counted from 0"
        )
    converted = {key: annotation[key] for key in _COPIED if key in annotation}
    converted |= {"category_id": label + 1, "bbox": _box(annotation, where)}
    if (points := annotation.get("keypoints")) is not None:
        converted["keypoints"] = [
            value - PIXEL_CENTER if place % 3 != 2 else int(value)
            for place, value in enumerate(points)
        ]
    return converted


def _box(annotation: Any, where: str) -> list[float]:
    """Return x, y, width and height."""
    numbers = [float(number) for number in _entry(annotation, "bbox", where)]
    mode = _entry(annotation, "bbox_mode", where)
    if int(mode) not in (_XYXY, _XYWH) or len(numbers) != 4:
        raise ValueError(
            f"{where}: a bbox must have four numbers and the bbox_mode XYXY_ABS (0) or XYWH_ABS "
            f"(1); got {len(numbers)} numbers and {mode!r}"
        )
    first, second, third, fourth = numbers
    if int(mode) == _XYWH:
        return numbers
    return [first, second, third - first, fourth - second]
