"""Which classes a detector mistakes for which: a confusion matrix over all images.

Shapes: K classes, D detections and G objects of one image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCOeval_faster as COCOeval
from numpy.typing import NDArray

from pipeline.evaluate.image_matches import IOU_THRESHOLDS, Floats, Integers

BACKGROUND = "background"
_MIN_IOU = float(IOU_THRESHOLDS[0])


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of objects by their class and by the class that was detected.

    Args:
        names: the K class names.
        counts: (K + 1, K + 1): row is the class of the object, column that of the detection. The
            last row is background (false positives), the last column missed objects.
    """

    names: tuple[str, ...]
    counts: Integers

    def confusions(self) -> list[tuple[str, str, int]]:
        """Return (class of the object, class detected, count), the most frequent first.

        Right detections are left out; "background" stands for no object and for no detection.
        """
        names = (*self.names, BACKGROUND)
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        order = np.argsort(-wrong[rows, columns], kind="stable")
        return [
            (names[row], names[column], int(wrong[row, column]))
            for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
        ]


def confusion_matrix(evaluator: COCOeval, score_threshold: float) -> ConfusionMatrix:
    """Count, by the boxes, which class was detected for each object.

    In order of descending score, a detection takes the free object with which its IoU is highest,
    of whatever class, if that is at least 0.5. Detections on crowd regions do not count.

    Args:
        evaluator: of boxes, after ``evaluate()``.
        score_threshold: detections with a lower score are left out.
    """
    categories = [evaluator.cocoGt.cats[id] for id in evaluator.params.catIds]
    index = {category["id"]: k for k, category in enumerate(categories)}
    counts = np.zeros((len(index) + 1, len(index) + 1), dtype=np.int64)
    for image_id in evaluator.params.imgIds:
        objects = evaluator.cocoGt.imgToAnns.get(image_id, [])
        detections = sorted(
            (
                each
                for each in evaluator.cocoDt.imgToAnns.get(image_id, [])
                if each["score"] >= score_threshold
            ),
            key=lambda each: -each["score"],
        )
        _count_image(counts, index, objects, detections)
    return ConfusionMatrix(tuple(category["name"] for category in categories), counts)


def _count_image(
    counts: Integers,
    index: Mapping[int, int],
    objects: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
) -> None:
    crowd = np.array([bool(each.get("iscrowd", 0)) for each in objects], dtype=bool)
    ious = _overlaps(_boxes(detections), _boxes(objects), crowd)
    free = ~crowd
    for d, detection in enumerate(detections):
        candidates = np.where(free, ious[d], 0.0)
        label = index[detection["category_id"]]
        best = int(candidates.argmax()) if len(objects) else 0
        if len(objects) and candidates[best] >= _MIN_IOU:
            free[best] = False
            counts[index[objects[best]["category_id"]], label] += 1
        elif not (ious[d][crowd] >= _MIN_IOU).any():
            counts[-1, label] += 1
    for missed in np.flatnonzero(free).tolist():
        counts[index[objects[missed]["category_id"]], -1] += 1


def _boxes(annotations: Sequence[Mapping[str, Any]]) -> Floats:
    """Return (N, 4) x1 y1 x2 y2."""
    boxes = np.array([each["bbox"] for each in annotations], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _overlaps(detections: Floats, objects: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Return the (D, G) IoU; for crowd regions the share of the detection inside, as in COCO."""
    low = np.maximum(detections[:, None, :2], objects[None, :, :2])
    high = np.minimum(detections[:, None, 2:], objects[None, :, 2:])
    inside = (high - low).clip(min=0).prod(2)
    areas, object_areas = ((box[:, 2:] - box[:, :2]).prod(1) for box in (detections, objects))
    union = np.where(crowd[None], areas[:, None], areas[:, None] + object_areas[None] - inside)
    overlaps: Floats = inside / np.maximum(union, 1e-9)
    return overlaps
