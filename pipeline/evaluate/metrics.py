"""The metrics of an evaluation: their names, and the values of one detector on one dataset."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from model.config import ModelConfig

COCO_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""The twelve metrics of boxes and of masks, in the order of ``COCOeval.stats``."""

KEYPOINT_METRICS = (
    *("AP", "AP50", "AP75", "APm", "APl"),
    *("AR", "AR50", "AR75", "ARm", "ARl"),
)
"""The ten metrics of keypoints, whose overlap is object keypoint similarity (OKS)."""

PROPOSAL_LIMITS = (100, 1000)

PROPOSAL_METRICS = tuple(f"AR{size}{n}" for n in PROPOSAL_LIMITS for size in ("", "s", "m", "l"))
"""Class-agnostic average recall of the top 100 and the top 1000 proposals of an image.

Known as AR@100, ARs@100, ... elsewhere; MLflow does not allow @ in a metric name.
"""

COCO_MAX_DETECTIONS = 100
"""Detections of a class in an image that COCO's AP counts."""

VOC_METRIC = "voc/AP50"

HEADLINE_METRICS = ("/AP", "/AP50", "/AR1000")
"""Suffixes of the metrics that log lines show."""


@dataclass(frozen=True)
class ClassMetrics:
    """One row of the per-class table: ``values`` holds ``bbox/AP``, ``bbox/AP50``, ..."""

    category_id: int
    name: str
    objects: int
    values: dict[str, float]


@dataclass(frozen=True)
class Metrics:
    """The metrics of one evaluation. The field names are also keys of ``report.json``.

    Args:
        values: ``{kind}/{metric}`` for every kind that was measured, and ``voc/AP50`` for a VOC
            dataset; -1 where the dataset has no object to measure, as in pycocotools.
        per_class: one row per category, in the dataset's order.
        images: number of images evaluated.
        failed_images: number of images that could not be read; they count as without detections.
        notes: what a reader must know to interpret the metrics.
    """

    values: dict[str, float]
    per_class: tuple[ClassMetrics, ...] = field(default=())
    images: int = 0
    failed_images: int = 0
    notes: tuple[str, ...] = ()


def metric_names(kind: str, max_detections: int = COCO_MAX_DETECTIONS) -> tuple[str, ...]:
    """Return the names of the metrics of "bbox", "segm", "keypoints" or "proposals".

    Args:
        kind: what is measured.
        max_detections: limit of boxes and masks; AR100 is named after it.
    """
    if kind in ("keypoints", "proposals"):
        return KEYPOINT_METRICS if kind == "keypoints" else PROPOSAL_METRICS
    return tuple(f"AR{max_detections}" if name == "AR100" else name for name in COCO_METRICS)


def measured_metrics(model: ModelConfig) -> tuple[str, ...]:
    """Return the names of all metrics that an evaluation of a detector can have."""
    kinds = ["proposals"] if model.is_proposal_network else ["bbox"]
    kinds += ["segm"] if model.mask is not None else []
    kinds += ["keypoints"] if model.keypoint is not None else []
    return (*(f"{kind}/{name}" for kind in kinds for name in metric_names(kind)), VOC_METRIC)


def mean_of_measured(values: ArrayLike) -> float:
    """Return the mean of the values that were measured, or -1 if there are none.

    Args:
        values: of any shape, in [0, 1]; -1 marks one that was not measured.
    """
    array = np.asarray(values, dtype=np.float64)
    measured = array[array > -1]
    return float(measured.mean()) if measured.size else -1.0
