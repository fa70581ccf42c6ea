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

from model.config.keypoint_names import COCO_PERSON_KEYPOINTS

NUMBERS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""COCO's twelve, in the order of ``COCOeval.stats``."""

KEYPOINT_NUMBERS = (
    *("AP", "AP50", "AP75", "APm", "APl"),
    *("AR", "AR50", "AR75", "ARm", "ARl"),
)
"""COCO's ten of keypoints, whose overlap is object keypoint similarity (OKS)."""

PROPOSAL_LIMITS = (100, 1000)

PROPOSAL_NUMBERS = tuple(f"AR{size}{n}" for n in PROPOSAL_LIMITS for size in ("", "s", "m", "l"))
"""Average recall of the best 100 and 1000 boxes of an image, of whatever class.

Called AR@100, ARs@100 ... elsewhere; MLflow takes no @ in a name.
"""

MAIN_NUMBERS = ("/AP", "/AP50", "/AR1000")
"""Ends of the names that a line of the log has room for."""

UNIFORM_SIGMA = 0.05
"""For points that COCO measured no spread of; its own are .025 (eyes) to .107 (hips)."""


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
        notes: what to know about the numbers.
    """

    values: dict[str, float]
    per_class: tuple[ClassMetrics, ...] = field(default=())
    images: int = 0
    failed_images: int = 0
    notes: tuple[str, ...] = ()


def numbers_of(kind: str) -> tuple[str, ...]:
    """What is measured of "bbox", "segm", "keypoints" or "proposals"."""
    return {"keypoints": KEYPOINT_NUMBERS, "proposals": PROPOSAL_NUMBERS}.get(kind, NUMBERS)


def coco_metrics(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] = ("bbox", "segm"),
) -> Metrics:
    """Compare detections with the ground truth.

    Args:
        ground_truth: COCO instances format: images, annotations, categories; keypoints in
            annotations and categories where "keypoints" is asked for.
        results: COCO results format: image_id, category_id, bbox (x y w h), score, segmentation
            (RLE) where "segm" and keypoints (x y score ...) where "keypoints" is asked for. May be
            empty. Neither argument is changed.
        kinds: which overlaps to measure, "bbox", "segm" or "keypoints".

    Raises:
        ValueError: a result names an image or category that the ground truth does not have, or
            has another number of keypoints.

    Source: Lin et al. 2014, "Microsoft COCO"; pycocotools.cocoeval.
    """
    _check_ids("image_id", ground_truth["images"], results)
    _check_ids("category_id", ground_truth["categories"], results)
    names = keypoint_names(ground_truth)
    if "keypoints" in kinds:
        _check_keypoints(names, results)
    values: dict[str, float] = {}
    per_class: dict[int, dict[str, float]] = {c["id"]: {} for c in ground_truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        for kind in kinds:
            truth = _index(_annotations_for(kind, ground_truth))
            judged = COCOeval(truth, _detections(ground_truth, results, kind), iouType=kind)
            if kind == "keypoints":
                judged.params.kpt_oks_sigmas = _oks_sigmas(judged.params.kpt_oks_sigmas, names)
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
            values |= {
                f"{kind}/{number}": float(value)
                for number, value in zip(numbers_of(kind), judged.stats, strict=True)
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
        notes=_notes(names) if "keypoints" in kinds else (),
    )


def proposal_metrics(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> Metrics:
    """How many objects a proposal network finds, of whatever class.

    Args:
        ground_truth: COCO instances format.
        results: COCO results format: image_id, bbox (x y w h), score; no category is read.

    Returns:
        ``proposals/{number}`` for each of ``PROPOSAL_NUMBERS``: the mean of the recalls at IoU 0.5,
        0.55 .. 0.95; and no table of classes.

    Raises:
        ValueError: a result names an image that the ground truth does not have.

    Source: Hosang et al. 2015; pycocotools.cocoeval with useCats = 0.
    """
    _check_ids("image_id", ground_truth["images"], results)
    # Without categories pycocotools still leaves out what has none of the data set's.
    some_category = min(category["id"] for category in ground_truth["categories"])
    found = [{**result, "category_id": some_category} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _index(_annotations_for("bbox", ground_truth))
        judged = COCOeval(truth, _detections(ground_truth, found, "bbox"), iouType="bbox")
        judged.params.useCats = 0
        judged.params.maxDets = list(PROPOSAL_LIMITS)
        judged.evaluate()
        judged.accumulate()
    recall: np.ndarray = judged.eval["recall"]  # (T, 1, A, M), A is all, small, medium, large
    by_limit = recall.transpose(3, 2, 0, 1).reshape(len(PROPOSAL_NUMBERS), -1)
    return Metrics(
        {
            f"proposals/{number}": _mean_of_measured(values)
            for number, values in zip(PROPOSAL_NUMBERS, by_limit, strict=True)
        },
        images=len(ground_truth["images"]),
    )


def keypoint_names(ground_truth: Mapping[str, Any]) -> tuple[str, ...]:
    """The keypoints that the categories name; empty where they name none."""
    named = (c["keypoints"] for c in ground_truth["categories"] if c.get("keypoints"))
    return tuple(next(named, ()))


def _oks_sigmas(of_coco: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """How far annotators spread at each point, relative to the object's size."""
    if tuple(names) == COCO_PERSON_KEYPOINTS:
        return of_coco
    return np.full(len(names), UNIFORM_SIGMA)


def _notes(names: Sequence[str]) -> tuple[str, ...]:
    if tuple(names) == COCO_PERSON_KEYPOINTS:
        return ()
    return (
        f"The keypoints are not COCO's 17 of a person: OKS takes a sigma of {UNIFORM_SIGMA} for "
        "each, so these numbers compare with each other, not with published ones.",
    )


def _check_keypoints(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> None:
    if not names:
        raise ValueError("the ground truth's categories name no keypoints, so none can be measured")
    counts = {len(result["keypoints"]) // 3 for result in results} - {len(names)}
    if counts:
        raise ValueError(
            f"the ground truth has {len(names)} keypoints, the results have {sorted(counts)}. "
            "A detector of another data set?"
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


def _check_ids(
    key: str, known: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> None:
    unknown = sorted({result[key] for result in results} - {record["id"] for record in known})
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
    # Without the box beside a mask or keypoints, so that the size ranges go by their own area.
    measured = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
    kept = ("image_id", "category_id", "score", measured)
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


def _mean_of_measured(values: np.ndarray) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
