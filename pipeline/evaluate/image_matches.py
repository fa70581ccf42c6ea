"""Which detections of each image match an object: the records that COCO's AP is computed from.

Shapes: I images, K classes, T IoU thresholds, N detections and G objects of all images; D
detections and O objects of one class in one image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCOeval_faster as COCOeval
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The IoU thresholds that COCO's AP averages; for keypoints thresholds of OKS."""


@dataclass(frozen=True)
class ImageMatches:
    """The matches of one kind of metric ("bbox", "segm", "keypoints") on a dataset.

    Detections are in COCO's order: by image, then by class, then by descending score. At most
    ``evaluate.max_detections`` of a class in an image are kept, as COCO counts no more.

    Args:
        image_ids: (I,) ids of all images, ascending.
        class_ids: (K,) category ids, ascending.
        images: (N,) index of each detection's image.
        classes: (N,) index of each detection's class.
        scores: (N,) in [0, 1].
        matched: (N, T) whether the detection is a true positive at each threshold.
        ignored: (N, T) whether it lies on a crowd region, so that it is neither true nor false.
        object_images: (G,) index of each object's image, crowd regions aside.
        object_classes: (G,) index of each object's class.
    """

    image_ids: Integers
    class_ids: Integers
    images: Integers
    classes: Integers
    scores: Floats
    matched: Bools
    ignored: Bools
    object_images: Integers
    object_classes: Integers


def match_images(evaluator: COCOeval) -> ImageMatches:
    """Return the matches behind an evaluator's results.

    They are found again with COCO's rule, from the IoUs that the evaluator holds: its own matches
    cannot be read from Python.

    Args:
        evaluator: after ``evaluate()``.
    """
    params = evaluator.params
    image_index = {image_id: n for n, image_id in enumerate(params.imgIds)}
    class_index = {class_id: n for n, class_id in enumerate(params.catIds)}
    with_detections = _pairs(evaluator.cocoDt.anns)
    parts = []
    # Ids ascend, so sorted pairs are in COCO's order.
    for pair in sorted(with_detections | _pairs(evaluator.cocoGt.anns)):
        if pair[1] not in class_index:  # the evaluation of keypoints leaves classes out
            continue
        objects = evaluator.gt_dataset.get(*pair)
        scores = np.zeros(0)
        if pair in with_detections:
            scores = np.array([each["score"] for each in evaluator.dt_dataset.get(*pair)])
            scores = -np.sort(-scores, kind="stable")[: params.maxDets[-1]]
        ignored = np.array([bool(each["ignore"]) for each in objects], dtype=bool)
        crowd = np.array([bool(each.get("iscrowd", 0)) for each in objects], dtype=bool)
        ious = np.asarray(evaluator.ious[pair], dtype=np.float64).reshape(len(scores), len(objects))
        matched, on_ignored = match_detections(ious, ignored, crowd)
        parts.append(
            _Pair(
                image_index[pair[0]],
                class_index[pair[1]],
                scores,
                matched,
                on_ignored,
                objects=int((~ignored).sum()),
            )
        )
    return _join(np.array(params.imgIds), np.array(params.catIds), parts)


def match_detections(ious: Floats, ignored: Bools, crowd: Bools) -> tuple[Bools, Bools]:
    """Match the detections of one class in one image to its objects, at each IoU threshold.

    In order of descending score, a detection takes the object with the highest IoU among those that
    no detection has taken; an ignored object only if it reaches no other. Crowd regions can be
    taken more than once.

    Args:
        ious: (D, O), detections by descending score.
        ignored: (O,) objects that do not count.
        crowd: (O,) crowd regions.

    Returns:
        (D, T) true positives, and (D, T) detections that took an ignored object.

    Source: pycocotools.cocoeval, evaluateImg.
    """
    thresholds = len(IOU_THRESHOLDS)
    matched = np.zeros((len(ious), thresholds), dtype=bool)
    on_ignored = np.zeros_like(matched)
    if not ious.size:
        return matched, on_ignored
    order = np.argsort(ignored, kind="stable")
    # Reversed, so that argmax takes the last of equal IoUs, as COCO does.
    backward = order[::-1]
    ious, ignored, crowd = ious[:, backward], ignored[backward], crowd[backward]
    free = np.ones((thresholds, len(order)), dtype=bool)
    rows = np.arange(thresholds)
    for d in np.flatnonzero(ious.max(axis=1) >= IOU_THRESHOLDS[0]):
        reachable = free & (ious[d] >= IOU_THRESHOLDS[:, None])  # (T, O)
        counted = reachable & ~ignored
        has_counted = counted.any(axis=1)
        candidates = np.where(has_counted[:, None], counted, reachable)
        taken = np.where(candidates, ious[d], -1.0).argmax(axis=1)  # (T,)
        is_taken = candidates.any(axis=1)
        matched[d] = has_counted
        on_ignored[d] = is_taken & ~has_counted
        used = is_taken & ~crowd[taken]
        free[rows[used], taken[used]] = False
    return matched, on_ignored


@dataclass(frozen=True)
class _Pair:
    """The detections of one class in one image, and the number of its objects that count."""

    image: int
    label: int
    scores: Floats
    matched: Bools
    ignored: Bools
    objects: int


def _pairs(annotations: Mapping[int, Mapping[str, Any]]) -> set[tuple[int, int]]:
    """Return the image id and the category id of all annotations."""
    return {(each["image_id"], each["category_id"]) for each in annotations.values()}


def _join(image_ids: Integers, class_ids: Integers, parts: Sequence[_Pair]) -> ImageMatches:
    images = np.array([part.image for part in parts], dtype=np.int64)
    classes = np.array([part.label for part in parts], dtype=np.int64)
    detections = [len(part.scores) for part in parts]
    objects = [part.objects for part in parts]
    none = np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool)
    return ImageMatches(
        image_ids=image_ids,
        class_ids=class_ids,
        images=images.repeat(detections),
        classes=classes.repeat(detections),
        scores=np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
        matched=np.concatenate([none, *(part.matched for part in parts)]),
        ignored=np.concatenate([none, *(part.ignored for part in parts)]),
        object_images=images.repeat(objects),
        object_classes=classes.repeat(objects),
    )
