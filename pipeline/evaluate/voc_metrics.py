"""Pascal VOC's number: the area under the precision of boxes over their recall, at IoU 0.5.

Letters: N objects of an image, D detections of an image.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUMBER = "voc/AP50"

_LEAST_IOU = 0.5
_RECALLS = 10  # 0, 0.1, ... 1: eleven of them


@dataclass(frozen=True)
class _Truth:
    """The objects of one class in one image: (N, 4) x1 y1 x2 y2, and which do not count."""

    boxes: Floats
    ignored: NDArray[np.bool_]


def voc_metrics(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], eleven_points: bool
) -> dict[int, float]:
    """Average precision of each class.

    A detection belongs to the object that it overlaps most, if their IoU is at least 0.5. The
    first at an object is right, all others are wrong; one at an ignored object is neither.

    Args:
        ground_truth: COCO instances format; crowd regions are ignored, as VOC does difficult ones.
        results: COCO results format: image_id, category_id, bbox (x y w h), score.
        eleven_points: average the precision at recalls 0, 0.1 ... 1, as VOC did before 2010; else
            take the area under it.

    Returns:
        Category id -> average precision; -1 where no object counts.

    Source: Everingham et al. 2010, section 4.2, and the development kits of 2007 and 2012.
    """
    truths = _truths(ground_truth)
    found: dict[int, dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        found[result["category_id"]][result["image_id"]].append(result)
    values = {}
    for category in ground_truth["categories"]:
        own = truths[category["id"]]
        objects = sum(int((~truth.ignored).sum()) for truth in own.values())
        right = _judge(own, found[category["id"]])
        values[category["id"]] = _average_precision(right, objects, eleven_points)
    return values


def mean_of_measured(values: Mapping[int, float]) -> float:
    """The mean over the classes that were measured; -1 where none was."""
    measured = [value for value in values.values() if value >= 0]
    return float(np.mean(measured)) if measured else -1.0


def _truths(ground_truth: Mapping[str, Any]) -> dict[int, dict[int, _Truth]]:
    """Category id -> image id -> its objects."""
    grouped: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for annotation in ground_truth["annotations"]:
        grouped[annotation["category_id"]][annotation["image_id"]].append(annotation)
    return defaultdict(
        dict,
        {
            category: {
                image: _Truth(
                    _corners([each["bbox"] for each in annotations]),
                    np.array([bool(each.get("iscrowd", 0)) for each in annotations]),
                )
                for image, annotations in images.items()
            }
            for category, images in grouped.items()
        },
    )


def _judge(
    truths: Mapping[int, _Truth], found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> NDArray[np.bool_]:
    """Whether each detection of a class is right, the surest first; ignored ones left out."""
    scores: list[float] = []
    objects: list[int] = []  # number of the object that a detection is at; -1 for none
    ignored: list[bool] = []
    first = 0
    for image, detections in found.items():
        scores += [detection["score"] for detection in detections]
        truth = truths.get(image)
        if truth is None:
            objects += [-1] * len(detections)
            ignored += [False] * len(detections)
            continue
        ious = _ious(_corners([detection["bbox"] for detection in detections]), truth.boxes)
        nearest = ious.argmax(1)
        at_one = ious.max(1) >= _LEAST_IOU
        objects += np.where(at_one, first + nearest, -1).tolist()
        ignored += (at_one & truth.ignored[nearest]).tolist()
        first += len(truth.boxes)
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="stable")
    order = order[~np.array(ignored, dtype=bool)[order]]
    at = np.array(objects, dtype=np.int64)[order]
    _, surest = np.unique(at, return_index=True)
    right = np.zeros(len(at), dtype=bool)
    right[surest] = True
    right[at < 0] = False
    return right


def _average_precision(right: NDArray[np.bool_], objects: int, eleven_points: bool) -> float:
    if objects == 0:
        return -1.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    # The best precision at this recall or any higher.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if not eleven_points:
        return float(envelope[right].sum() / objects)
    total = 0.0
    for step in range(_RECALLS + 1):
        # In whole numbers: 3 of 10 objects are a recall of 0.3, whatever floats make of it.
        reached = np.flatnonzero(hits * _RECALLS >= step * objects)
        total += float(envelope[reached[0]]) if len(reached) else 0.0
    return total / (_RECALLS + 1)


def _corners(boxes: Sequence[Sequence[float]]) -> Floats:
    """X y w h to x1 y1 x2 y2."""
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def _ious(detected: Floats, true: Floats) -> Floats:
    """(D, N). Continuous boxes: VOC's inclusive pixels, ``x2 - x1 + 1`` wide, are these."""
    low = np.maximum(detected[:, None, :2], true[None, :, :2])
    high = np.minimum(detected[:, None, 2:], true[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (detected, true)]
    ious: Floats = shared / (areas[0][:, None] + areas[1][None] - shared)
    return ious
