"""COCO's numbers, as pycocotools computes them, without its prints and its traps.

Letters: T IoU thresholds, R recall steps, K classes, A area ranges, M detection limits.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NUMBERS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""COCO's twelve, in the order of ``COCOeval.stats``."""


@dataclass(frozen=True)
class ClassMetrics:
    """One row of the per-class table: ``values`` holds ``bbox/AP``, ``bbox/AP50``, ..."""

    category_id: int
    name: str
    objects: int
    values: dict[str, float]


@dataclass(frozen=True)
class Metrics:
    """What an evaluation found.

    Args:
        values: ``{kind}/{number}`` for every kind and each of ``NUMBERS``, and what else the data
            set is measured by; -1 where it holds no object to measure, as pycocotools has it.
        per_class: one row per category, in the data set's order.
        images: images evaluated.
        failed_images: images that could not be read and count as empty.
    """

    values: dict[str, float]
    per_class: tuple[ClassMetrics, ...] = field(default=())
    images: int = 0
    failed_images: int = 0


def coco_metrics(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] = ("bbox", "segm"),
) -> Metrics:
    """Compare detections with the ground truth.

    Args:
        ground_truth: COCO instances format: images, annotations, categories.
        results: COCO results format: image_id, category_id, bbox (x y w h), score, segmentation
            (RLE) where "segm" is asked for. May be empty. Neither argument is changed.
        kinds: which overlaps to measure, "bbox" or "segm".

    Raises:
        ValueError: a result names an image or category that the ground truth does not have.

    Source: Lin et al. 2014, "Microsoft COCO"; pycocotools.cocoeval.
    """
    _check_ids(ground_truth, results)
    values: dict[str, float] = {}
    per_class: dict[int, dict[str, float]] = {c["id"]: {} for c in ground_truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        for kind in kinds:
            truth = _index(_annotations_for(kind, ground_truth))
            judged = COCOeval(truth, _detections(ground_truth, results, kind), iouType=kind)
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
            values |= {
                f"{kind}/{number}": float(value)
                for number, value in zip(NUMBERS, judged.stats, strict=True)
            }
            for category_id, row in _class_values(judged, kind).items():
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
    )


def _annotations_for(kind: str, ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """The ground truth as pycocotools can take it.

    It takes an annotation number 0 for "not matched", so they count from 1. Masks cannot be
    compared with an object that has none: where it stands, they are neither right nor wrong.
    """
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        changed = {**annotation, "id": number}
        if kind == "segm" and not annotation.get("segmentation"):
            x, y, w, h = annotation["bbox"]
            changed |= {"iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        annotations.append(changed)
    return {**ground_truth, "annotations": annotations}


def _check_ids(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    for key, known in (
        ("image_id", {image["id"] for image in ground_truth["images"]}),
        ("category_id", {category["id"] for category in ground_truth["categories"]}),
    ):
        unknown = sorted({result[key] for result in results} - known)
        if unknown:
            raise ValueError(
                f"{len(unknown)} {key} of the results are not in the ground truth, such as "
                f"{unknown[:5]}. Predictions of another data set, or labels instead of ids?"
            )


def _index(dataset: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dict(dataset)
    coco.createIndex()
    return coco


def _detections(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> COCO:
    if not results:  # loadRes looks at the first result
        return _index({**ground_truth, "annotations": []})
    images_and_categories = _index({**ground_truth, "annotations": []})
    if kind == "bbox":
        kept: tuple[str, ...] = ("image_id", "category_id", "score", "bbox")
    else:
        # Without the box, so that the size ranges go by the area of the mask.
        kept = ("image_id", "category_id", "score", "segmentation")
    return images_and_categories.loadRes([{key: result[key] for key in kept} for result in results])


def _class_values(judged: COCOeval, kind: str) -> dict[int, dict[str, float]]:
    precision: np.ndarray = judged.eval["precision"]  # (T, R, K, A, M)
    all_sizes, most_detections, iou_50 = 0, -1, 0
    rows: dict[int, dict[str, float]] = {}
    for k, category_id in enumerate(judged.params.catIds):
        at_all = precision[:, :, k, all_sizes, most_detections]
        rows[category_id] = {
            f"{kind}/AP": _mean_of_measured(at_all),
            f"{kind}/AP50": _mean_of_measured(at_all[iou_50]),
        }
    return rows


def _mean_of_measured(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else -1.0
