"""Average recall of a proposal network.

Shapes, with the letters of pycocotools: T IoU thresholds, A area ranges, M proposal limits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluate.coco_evaluator import check_ids, coco_evaluator
from pipeline.evaluate.metrics import (
    PROPOSAL_LIMITS,
    PROPOSAL_METRICS,
    Metrics,
    mean_of_measured,
)


def proposal_metrics(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> Metrics:
    """Compute the recall of proposals: the share of objects they cover, whatever the class.

    Args:
        ground_truth: COCO instances format.
        results: COCO results format: image_id, bbox (x y w h), score; category ids are ignored.

    Returns:
        ``proposals/{metric}`` for each of ``PROPOSAL_METRICS``: the mean of the recalls at IoU 0.5,
        0.55, ..., 0.95. The per-class table is empty.

    Raises:
        ValueError: a result has an image id that the ground truth does not have.

    Source: Hosang et al. 2015; pycocotools.cocoeval with useCats = 0.
    """
    check_ids("image_id", ground_truth["images"], results)
    # Even with useCats = 0, pycocotools discards results without a category of the dataset.
    any_category = min(category["id"] for category in ground_truth["categories"])
    proposals = [{**result, "category_id": any_category} for result in results]
    evaluator = coco_evaluator(ground_truth, proposals, "bbox")
    evaluator.params.useCats = 0
    evaluator.params.maxDets = list(PROPOSAL_LIMITS)
    evaluator.evaluate()
    evaluator.accumulate()
    recall: np.ndarray = evaluator.eval["recall"]  # (T, 1, A, M); A: all, small, medium, large
    by_limit = recall.transpose(3, 2, 0, 1).reshape(len(PROPOSAL_METRICS), -1)
    return Metrics(
        {
            f"proposals/{metric}": mean_of_measured(values)
            for metric, values in zip(PROPOSAL_METRICS, by_limit, strict=True)
        },
        images=len(ground_truth["images"]),
    )
