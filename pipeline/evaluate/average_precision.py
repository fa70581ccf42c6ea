"""COCO's precision and AP, computed from match records.

Shapes: T IoU thresholds, R recalls, K classes, D detections of one class.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.image_matches import Bools, Floats, ImageMatches, Integers

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO takes the precision."""


def precision_table(matches: ImageMatches) -> Floats:
    """Return the interpolated precision of each class, (T, R, K); -1 for a class without objects.

    Equal to the evaluator's table for all areas and the highest detection limit, so that
    ``mean_of_measured`` of it is COCO's AP.
    """
    counts = np.bincount(matches.object_classes, minlength=len(matches.class_ids))
    thresholds = matches.matched.shape[1]
    table = np.full((thresholds, len(RECALLS), len(counts)), -1.0)
    for label, of_class in enumerate(detections_by_class(matches)):
        if counts[label]:
            table[:, :, label] = interpolated_precision(
                matches.matched[of_class], matches.ignored[of_class], int(counts[label])
            )
    return table


def detections_by_class(matches: ImageMatches) -> list[Integers]:
    """Return for each class the indices of its detections by descending score.

    Equal scores keep the order of the images, as in COCO.
    """
    order = np.argsort(-matches.scores, kind="stable")
    return [order[each] for each in group_by_class(matches.classes[order], len(matches.class_ids))]


def group_by_class(classes: Integers, count: int) -> list[Integers]:
    """Return the indices of the elements of each of ``count`` classes, in their order."""
    order = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[order], np.arange(count + 1))
    return [order[a:b] for a, b in pairwise(bounds)]


def interpolated_precision(matched: Bools, ignored: Bools, objects: int) -> Floats:
    """Return the highest precision at each recall or a higher one, (T, R).

    Args:
        matched: (D, T) true positives, by descending score.
        ignored: (D, T) detections that do not count.
        objects: number of objects, at least 1.

    Source: pycocotools.cocoeval, accumulate.
    """
    true = matched.cumsum(axis=0, dtype=np.float64)
    counted = (~ignored).cumsum(axis=0)
    precision = true / np.maximum(counted, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = true / objects
    table: NDArray[np.float64] = np.zeros((matched.shape[1], len(RECALLS)))
    for t in range(matched.shape[1]):
        reached = np.searchsorted(recall[:, t], RECALLS)
        is_reached = reached < len(recall)
        table[t, is_reached] = envelope[reached[is_reached], t]
    return table
