"""All numbers of a detector on a data set, as the data set is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.evaluate.coco_metrics import Metrics, coco_metrics, proposal_metrics
from pipeline.evaluate.voc_metrics import NUMBER, mean_of_measured, voc_metrics
from pipeline.ingest.coco import coco_ground_truth
from pipeline.shards.manifest import read_manifest


def measure_results(
    shards_url: str, results: Sequence[Mapping[str, Any]], kinds: Sequence[str]
) -> Metrics:
    """COCO's numbers, and VOC's where the manifest says so; of proposals alone their recall.

    Args:
        shards_url: the annotated images.
        results: COCO results format.
        kinds: which overlaps COCO's numbers measure, "bbox", "segm" or "keypoints"; or "proposals"
            alone.

    Raises:
        ValueError: a result names an image or category that the data set does not have.
    """
    truth = coco_ground_truth(shards_url)
    if tuple(kinds) == ("proposals",):
        return proposal_metrics(truth, results)
    metrics = coco_metrics(truth, results, kinds)
    protocol = read_manifest(shards_url).protocol
    if protocol == "coco":
        return metrics
    values = voc_metrics(truth, results, eleven_points=protocol == "voc_11_points")
    return replace(
        metrics,
        values=metrics.values | {NUMBER: mean_of_measured(values)},
        per_class=tuple(
            replace(row, values=row.values | {NUMBER: values[row.category_id]})
            for row in metrics.per_class
        ),
    )
