"""Pascal VOC's average precision (AP) of boxes at IoU 0.5.

Shapes: G ground-truth objects of an image, D detections of an image.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MIN_IOU = 0.5
_RECALL_STEPS = 10  # 0, 0.1, ..., 1: eleven recalls


@dataclass(frozen=True)
class _GroundTruth:
    """The objects of one class in one image: boxes (G, 4) x1 y1 x2 y2 and ignored (G,)."""

    boxes: Floats
    ignored: NDArray[np.bool_]


def voc_metrics(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], eleven_points: bool
) -> dict[int, float]:
    """Compute the average precision of each class.

    A detection is matched to the object with which its IoU is highest, if that IoU is at least 0.5.
    The highest-scoring detection of an object is a true positive; all other detections are false
    positives, except that detections matched to an ignored object are ignored.

    Args:
        ground_truth: COCO instances format; crowd regions are ignored, as VOC ignores objects
            marked difficult.
        results: COCO results format: image_id, category_id, bbox (x y w h), score.
        eleven_points: average the precision at recalls 0, 0.1, ..., 1, as VOC did before 2010;
            otherwise take the area under the precision-recall curve.

    Returns:
        Average precision by category id; -1 for a category without objects, ignored ones aside.

    Source: Everingham et al. 2010, section 4.2, and the development kits of 2007 and 2012.
    """
    objects = _group_objects(ground_truth)
    detections: dict[int, dict[int, list[Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for result in results:
        detections[result["category_id"]][result["image_id"]].append(result)
    values = {}
    for category in ground_truth["categories"]:
        of_class = objects[category["id"]]
        positives = sum(int((~gt.ignored).sum()) for gt in of_class.values())
        is_true = _match_detections(of_class, detections[category["id"]])
        values[category["id"]] = _average_precision(is_true, positives, eleven_points)
    return values


def _group_objects(ground_truth: Mapping[str, Any]) -> dict[int, dict[int, _GroundTruth]]:
    """Group the objects by category id, then by image id."""
    grouped: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for annotation in ground_truth["annotations"]:
        grouped[annotation["category_id"]][annotation["image_id"]].append(annotation)
    return defaultdict(
        dict,
        {
            category: {
                image: _GroundTruth(
                    _corners([each["bbox"] for each in annotations]),
                    np.array([bool(each.get("iscrowd", 0)) for each in annotations]),
                )
                for image, annotations in images.items()
            }
            for category, images in grouped.items()
        },
    )


def _match_detections(
    objects: Mapping[int, _GroundTruth], detections: Mapping[int, Sequence[Mapping[str, Any]]]
) -> NDArray[np.bool_]:
    """Return which detections of a class are true positives, in order of descending score.

    Detections matched to ignored objects are left out.
    """
    scores: list[float] = []
    matches: list[int] = []  # index of the matched object among all images' objects; -1 for none
    ignored: list[bool] = []
    first = 0  # index of the image's first object
    for image, of_image in detections.items():
        scores += [detection["score"] for detection in of_image]
        gt = objects.get(image)
        if gt is None:
            matches += [-1] * len(of_image)
            ignored += [False] * len(of_image)
            continue
        ious = _pairwise_iou(_corners([detection["bbox"] for detection in of_image]), gt.boxes)
        best = ious.argmax(1)
        is_matched = ious.max(1) >= _MIN_IOU
        matches += np.where(is_matched, first + best, -1).tolist()
        ignored += (is_matched & gt.ignored[best]).tolist()
        first += len(gt.boxes)
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="stable")
    order = order[~np.array(ignored, dtype=bool)[order]]
    ranked_matches = np.array(matches, dtype=np.int64)[order]
    _, highest_scoring = np.unique(ranked_matches, return_index=True)
    is_true = np.zeros(len(ranked_matches), dtype=bool)
    is_true[highest_scoring] = True
    is_true[ranked_matches < 0] = False
    return is_true


def _average_precision(is_true: NDArray[np.bool_], positives: int, eleven_points: bool) -> float:
    if positives == 0:
        return -1.0
    hits = np.cumsum(is_true)
    precision = hits / np.arange(1, len(is_true) + 1)
    # The highest precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if not eleven_points:
        return float(envelope[is_true].sum() / positives)
    total = 0.0
    for step in range(_RECALL_STEPS + 1):
        # In integers: 3 of 10 objects are a recall of exactly 0.3, which floats may round below.
        reached = np.flatnonzero(hits * _RECALL_STEPS >= step * positives)
        total += float(envelope[reached[0]]) if len(reached) else 0.0
    return total / (_RECALL_STEPS + 1)


def _corners(boxes: Sequence[Sequence[float]]) -> Floats:
    """Convert x y w h to x1 y1 x2 y2."""
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def _pairwise_iou(detections: Floats, ground_truth: Floats) -> Floats:
    """Return the (D, G) IoU of continuous boxes.

    VOC's boxes include their last pixel (they are ``x2 - x1 + 1`` wide); as x y w h they are
    continuous boxes of the same area.
    """
    low = np.maximum(detections[:, None, :2], ground_truth[None, :, :2])
    high = np.minimum(detections[:, None, 2:], ground_truth[None, :, 2:])
    intersection = (high - low).clip(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (detections, ground_truth)]
    ious: Floats = intersection / (areas[0][:, None] + areas[1][None] - intersection)
    return ious
