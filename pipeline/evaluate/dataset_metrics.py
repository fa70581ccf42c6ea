"""All metrics of a detector on a dataset: which ones, and their values."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.structures import Category
from pipeline.evaluate.coco_metrics import Inspect, coco_metrics
from pipeline.evaluate.metrics import COCO_MAX_DETECTIONS, VOC_METRIC, Metrics, mean_of_measured
from pipeline.evaluate.proposal_metrics import proposal_metrics
from pipeline.evaluate.voc_metrics import voc_metrics
from pipeline.shards.class_match import ClassMatch, list_names, match_classes
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.keypoints import KeypointSet
from pipeline.shards.manifest import read_manifest

logger = logging.getLogger(__name__)


def dataset_metrics(
    shards_url: str,
    results: Sequence[Mapping[str, Any]],
    kinds: Sequence[str],
    classes: Sequence[Category] = (),
    max_detections: int = COCO_MAX_DETECTIONS,
    inspect: Inspect | None = None,
) -> Metrics:
    """Compute COCO metrics, and VOC's AP as well if the manifest names VOC's protocol.

    Args:
        shards_url: the annotated images.
        results: COCO results format.
        kinds: any of "bbox", "segm" and "keypoints"; or "proposals" alone for the recall of a
            proposal network.
        classes: the detector's classes, which are matched with the dataset's by name; those that
            the dataset lacks get an AP of -1. Empty if the results have the dataset's category
            ids.
        max_detections: detections of a class in an image that count; see `coco_metrics`.
        inspect: see `coco_metrics`; not called for proposals.

    Raises:
        ClassMismatchError: the detector and the dataset have no class in common.
        ValueError: a result has an image id or category id that the dataset does not have.
    """
    ground_truth = coco_ground_truth(shards_url)
    if tuple(kinds) == ("proposals",):
        return proposal_metrics(ground_truth, results)
    manifest = read_manifest(shards_url)
    notes: tuple[str, ...] = ()
    if classes:
        match = match_classes(classes, manifest.categories)
        results = match.renumber(results)
        ground_truth["categories"] += [each._asdict() for each in match.without_objects]
        notes = tuple(_notes(match, ground_truth))
    metrics = coco_metrics(ground_truth, results, kinds, max_detections, inspect)
    metrics = replace(metrics, notes=(*metrics.notes, *notes))
    protocol = manifest.protocol
    if protocol == "coco":
        return metrics
    values = voc_metrics(ground_truth, results, eleven_points=protocol == "voc_11_points")
    return replace(
        metrics,
        values=metrics.values | {VOC_METRIC: mean_of_measured(list(values.values()))},
        per_class=tuple(
            replace(row, values=row.values | {VOC_METRIC: values[row.category_id]})
            for row in metrics.per_class
        ),
    )


def _notes(match: ClassMatch, ground_truth: Mapping[str, Any]) -> Iterator[str]:
    ids = {category["name"]: category["id"] for category in ground_truth["categories"]}
    annotated = {annotation["category_id"] for annotation in ground_truth["annotations"]}
    if missed := [name for name in match.unknown if ids[name] in annotated]:
        yield (
            f"The detector does not know these classes of the dataset, so their AP is 0: "
            f"{list_names(missed)}."
        )


def metric_kinds(
    dataset_keypoints: KeypointSet | None,
    has_masks: bool,
    predicted_keypoints: Sequence[str] | None,
    has_classes: bool = True,
) -> tuple[str, ...]:
    """Return the kinds of metrics that both the detector and the dataset support.

    Args:
        dataset_keypoints: the dataset's keypoints; None if it has none.
        has_masks: whether the detector predicts masks.
        predicted_keypoints: names of the keypoints that the detector predicts; None if it predicts
            none.
        has_classes: False for a proposal network, which is evaluated by its recall alone.

    Raises:
        ValueError: the detector predicts other keypoints than the dataset has.
    """
    if not has_classes:
        return ("proposals",)
    kinds = ("bbox", "segm") if has_masks else ("bbox",)
    if predicted_keypoints is None:
        return kinds
    if dataset_keypoints is None:
        logger.warning(
            "the dataset has no keypoints, so the detector's keypoints are not evaluated"
        )
        return kinds
    if dataset_keypoints.names != tuple(predicted_keypoints):
        raise ValueError(
            f"the detector predicts the keypoints {', '.join(predicted_keypoints)}; the dataset "
            f"has {', '.join(dataset_keypoints.names)}. Another dataset, or another order?"
        )
    return (*kinds, "keypoints")
