"""COCO metrics of boxes, masks and keypoints, with the values that pycocotools computes.

Shapes, with the letters of pycocotools: T IoU thresholds, R recall thresholds, K classes, A area
ranges, M detection limits.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCOeval_faster as COCOeval

from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from pipeline.evaluate.coco_evaluator import check_ids, coco_evaluator
from pipeline.evaluate.metrics import (
    COCO_MAX_DETECTIONS,
    ClassMetrics,
    Metrics,
    mean_of_measured,
    metric_names,
)

UNIFORM_SIGMA = 0.05
"""OKS sigma of keypoints that are not COCO's, whose sigmas are 0.025 (eyes) to 0.107 (hips)."""

Inspect = Callable[[str, COCOeval], None]
"""Is called with each kind and its evaluator, which has run."""


def coco_metrics(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] = ("bbox", "segm"),
    max_detections: int = COCO_MAX_DETECTIONS,
    inspect: Inspect | None = None,
) -> Metrics:
    """Compare detections with the ground truth.

    Args:
        ground_truth: COCO instances format: images, annotations, categories; for "keypoints",
            annotations and categories must have keypoints. Not changed.
        results: COCO results format: image_id, category_id, bbox (x y w h), score; for "segm" also
            segmentation (RLE), for "keypoints" also keypoints (x y score ...). May be empty. Not
            changed.
        kinds: what to compare: any of "bbox", "segm" and "keypoints".
        max_detections: detections of a class in an image that count for boxes and masks; with
            another number than COCO's, values cannot be compared with published ones.
        inspect: takes more from the evaluators, such as the matches of each image.

    Raises:
        ValueError: a result has an image id, a category id or a number of keypoints that the
            ground truth does not have.

    Source: Lin et al. 2014, "Microsoft COCO"; pycocotools.cocoeval.
    """
    check_ids("image_id", ground_truth["images"], results)
    check_ids("category_id", ground_truth["categories"], results)
    keypoint_names = _keypoint_names(ground_truth)
    if "keypoints" in kinds:
        _check_keypoints(keypoint_names, results)
    values: dict[str, float] = {}
    per_class: dict[int, dict[str, float]] = {c["id"]: {} for c in ground_truth["categories"]}
    for kind in kinds:
        evaluator = coco_evaluator(ground_truth, results, kind)
        if kind == "keypoints" and keypoint_names != COCO_PERSON_KEYPOINTS:
            evaluator.params.kpt_oks_sigmas = np.full(len(keypoint_names), UNIFORM_SIGMA)
        if kind != "keypoints":
            evaluator.params.maxDets = [1, 10, max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        if inspect is not None:
            inspect(kind, evaluator)
        names = metric_names(kind, max_detections)
        measured = [float(value) for value in evaluator.stats]
        if max_detections != COCO_MAX_DETECTIONS and kind != "keypoints":
            # The evaluator looks AP up at 100 detections, whatever the limit is.
            measured[0] = mean_of_measured(evaluator.eval["precision"][:, :, :, 0, -1])
        values |= {f"{kind}/{metric}": value for metric, value in zip(names, measured, strict=True)}
        for category_id, row in _class_values(evaluator, kind).items():
            per_class[category_id] |= row
    objects = Counter(
        annotation["category_id"]
        for annotation in ground_truth["annotations"]
        if not annotation.get("iscrowd", 0)
    )
    return Metrics(
        values,
        tuple(
            ClassMetrics(c["id"], c["name"], objects[c["id"]], per_class[c["id"]])
            for c in ground_truth["categories"]
        ),
        images=len(ground_truth["images"]),
        notes=tuple(_notes(ground_truth, keypoint_names, kinds, max_detections)),
    )


def _keypoint_names(ground_truth: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keypoint names of the categories, or () if they have none."""
    names = (c["keypoints"] for c in ground_truth["categories"] if c.get("keypoints"))
    return tuple(next(names, ()))


def _check_keypoints(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> None:
    if not names:
        raise ValueError(
            "no category of the ground truth names its keypoints, so they cannot be evaluated"
        )
    counts = {len(result["keypoints"]) // 3 for result in results} - {len(names)}
    if counts:
        raise ValueError(
            f"the ground truth has {len(names)} keypoints, the results have {sorted(counts)}. "
            "Was the detector trained on another dataset?"
        )


def _notes(
    ground_truth: Mapping[str, Any],
    keypoint_names: tuple[str, ...],
    kinds: Sequence[str],
    max_detections: int,
) -> Iterator[str]:
    yield from _limit_notes(ground_truth, max_detections)
    without_mask = sum(
        not (annotation.get("segmentation") or annotation.get("iscrowd", 0))
        for annotation in ground_truth["annotations"]
    )
    if "segm" in kinds and without_mask:
        yield (
            f"Objects without a mask: {without_mask}. The mask metrics leave them out: they are "
            "neither found nor missed, and predictions on them do not count."
        )
    if "keypoints" in kinds and keypoint_names != COCO_PERSON_KEYPOINTS:
        yield (
            "The keypoints are not the 17 keypoints of a COCO person. OKS uses a sigma of "
            f"{UNIFORM_SIGMA} for each of them, so these metrics can be compared with each other "
            "but not with published results."
        )


def _limit_notes(ground_truth: Mapping[str, Any], max_detections: int) -> Iterator[str]:
    objects = Counter(
        (annotation["image_id"], annotation["category_id"])
        for annotation in ground_truth["annotations"]
    )
    crowded = len({image for (image, _), count in objects.items() if count > max_detections})
    if crowded:
        yield (
            f"Images with more than {max_detections} objects of a class: {crowded}. Only "
            f"{max_detections} detections of a class in an image count, so their AP cannot reach "
            "1; raise evaluate.max_detections and model.box.detections_per_image."
        )
    if max_detections != COCO_MAX_DETECTIONS:
        yield (
            f"AP counts up to {max_detections} detections of a class in an image, not COCO's "
            f"{COCO_MAX_DETECTIONS}, so it cannot be compared with published results."
        )


def _class_values(evaluator: COCOeval, kind: str) -> dict[int, dict[str, float]]:
    """Return ``{kind}/AP`` and ``{kind}/AP50`` of each category id."""
    precision: np.ndarray = evaluator.eval["precision"]  # (T, R, K, A, M)
    all_areas, highest_limit, iou_50 = 0, -1, 0
    rows: dict[int, dict[str, float]] = {}
    for k, category_id in enumerate(evaluator.params.catIds):
        of_class = precision[:, :, k, all_areas, highest_limit]
        rows[category_id] = {
            f"{kind}/AP": mean_of_measured(of_class),
            f"{kind}/AP50": mean_of_measured(of_class[iou_50]),
        }
    return rows
