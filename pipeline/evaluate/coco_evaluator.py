"""The evaluator of faster-coco-eval, set up around pitfalls that it shares with pycocotools.

Its values are those of pycocotools, which the tests compare it with, in a fifth of the time; during
a validation in training all workers wait for it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from faster_coco_eval import COCO
from faster_coco_eval import COCOeval_faster as COCOeval

logger = logging.getLogger(__name__)


def coco_evaluator(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> COCOeval:
    """Build an evaluator of ``results``, not yet run.

    Args:
        ground_truth: COCO instances format; not changed.
        results: COCO results format; may be empty; not changed.
        kind: "bbox", "segm" or "keypoints".
    """
    annotations = _index(_evaluable_annotations(ground_truth, kind))
    detections = _index_results(ground_truth, results, kind)
    # At its default level, info, each evaluation would add a page to the log of a training.
    return COCOeval(annotations, detections, iouType=kind, print_function=logger.debug)


def check_ids(
    key: str, known: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> None:
    """Check that ``key`` of every result is the ``id`` of a known record.

    Raises:
        ValueError: names the unknown ids.
    """
    unknown = sorted({result[key] for result in results} - {record["id"] for record in known})
    if unknown:
        raise ValueError(
            f"{len(unknown)} values of {key} in the results are not in the ground truth, such as "
            f"{unknown[:5]}. Predictions of another dataset, or labels instead of category ids?"
        )


def _evaluable_annotations(ground_truth: Mapping[str, Any], kind: str) -> dict[str, Any]:
    annotations = []
    # The evaluator reads a matched annotation id of 0 as "not matched", so ids count from 1.
    for new_id, annotation in enumerate(ground_truth["annotations"], start=1):
        changed = {**annotation, "id": new_id}
        if kind == "segm" and not annotation.get("segmentation"):
            # Masks cannot be compared with an object that has none. As a crowd region the size of
            # its box, it makes detections there neither true nor false positives.
            x, y, w, h = annotation["bbox"]
            changed |= {"iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        annotations.append(changed)
    return {**ground_truth, "annotations": annotations}


def _index_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> COCO:
    images_and_categories = _index({**ground_truth, "annotations": []})
    if not results:  # loadRes reads the first result
        return images_and_categories
    # Without the box, so that loadRes takes the area for the size ranges from the mask or the
    # keypoints themselves.
    measured = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
    kept = ("image_id", "category_id", "score", measured)
    return images_and_categories.loadRes([{key: result[key] for key in kept} for result in results])


def _index(dataset: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dict(dataset)
    coco.createIndex()
    return coco
