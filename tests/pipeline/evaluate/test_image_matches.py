"""AP computed from match records equals that of the evaluator, bit by bit."""

import numpy as np
import pytest

from pipeline.evaluate.average_precision import precision_table
from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.image_matches import match_detections, match_images
from pipeline.evaluate.metrics import mean_of_measured
from tests.pipeline.evaluate.test_coco_metrics import perfect_results, random_case


def match(gt, results, kinds=("bbox", "segm"), max_detections=100):
    matches, tables = {}, {}

    def inspect(kind, evaluator):
        matches[kind] = match_images(evaluator)
        tables[kind] = evaluator.eval["precision"][:, :, :, 0, -1]

    metrics = coco_metrics(gt, results, kinds, max_detections, inspect)
    return metrics, matches, tables


@pytest.mark.parametrize("max_detections", [100, 2])
@pytest.mark.parametrize("seed", range(8))
def test_ap_of_the_matches_is_the_evaluators(seed, max_detections):
    gt, results = random_case(seed, images=8, objects=6)
    metrics, matches, tables = match(gt, results, max_detections=max_detections)
    for kind in ("bbox", "segm"):
        table = precision_table(matches[kind])
        assert np.array_equal(table, tables[kind])
        assert mean_of_measured(table) == metrics.values[f"{kind}/AP"]
        for k, row in enumerate(metrics.per_class):
            assert mean_of_measured(table[:, :, k]) == row.values[f"{kind}/AP"]


def test_ap_is_the_evaluators_without_detections_and_without_objects():
    gt, results = random_case(seed=1)
    for case in ((gt, []), ({**gt, "annotations": []}, results), (gt, perfect_results(gt))):
        metrics, matches, tables = match(*case)
        assert np.array_equal(precision_table(matches["segm"]), tables["segm"])
        assert mean_of_measured(precision_table(matches["bbox"])) == metrics.values["bbox/AP"]


def test_a_crowd_region_takes_many_detections_and_an_object_one():
    crowd = np.array([False, True])
    ious = np.array([[0.9, 0.8], [0.7, 0.8], [0.4, 0.6], [0.4, 0.3]])
    matched, ignored = match_detections(ious, ignored=crowd, crowd=crowd)
    # The first takes the object up to IoU 0.9; beyond, neither reaches.
    assert matched.sum(axis=1).tolist() == [9, 0, 0, 0]
    # At IoU 0.5 to 0.8 the second falls on the crowd region, and so does the third to 0.6.
    assert ignored.sum(axis=1).tolist() == [0, 7, 3, 0]
