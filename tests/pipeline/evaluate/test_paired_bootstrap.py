"""The paired bootstrap is COCO's AP on resampled images, and its interval covers the truth."""

import numpy as np
import pytest

from pipeline.evaluate.average_precision import detections_by_class, precision_table
from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.image_matches import match_images
from pipeline.evaluate.metrics import mean_of_measured
from pipeline.evaluate.paired_bootstrap import (
    AP_THRESHOLDS,
    DifferentDataError,
    compare_average_precision,
    draw_images,
    resampled_precision,
)
from tests.pipeline.evaluate.synthetic_matches import draw_detector, draw_objects, repeat_images
from tests.pipeline.evaluate.test_coco_metrics import random_case

IMAGES, CLASSES = 40, 3


@pytest.fixture
def pair():
    rng = np.random.default_rng(5)
    objects = draw_objects(rng, IMAGES, CLASSES)
    return [draw_detector(rng, objects, IMAGES, CLASSES, recall, 0.2) for recall in (0.6, 0.75)]


def class_values(matches, thresholds=slice(None)):
    table = precision_table(matches)[thresholds]
    values = np.array([mean_of_measured(table[:, :, k]) for k in range(table.shape[2])])
    return np.where(values < 0, np.nan, values)


@pytest.mark.parametrize("metric", ["AP", "AP50", "AP75"])
def test_a_resample_has_the_ap_of_a_dataset_with_repeated_images(pair, metric):
    thresholds = AP_THRESHOLDS[metric]
    for matches in pair:
        [draws] = draw_images(IMAGES, 20, seed=3)
        values = resampled_precision(matches, detections_by_class(matches), draws, thresholds)
        for s in range(draws.shape[1]):
            expected = class_values(repeat_images(matches, draws[:, s]), thresholds)
            assert values[s] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_drawing_every_image_once_gives_the_evaluators_ap():
    gt, results = random_case(seed=2, images=9, objects=7)
    matches = {}
    metrics = coco_metrics(
        gt, results, inspect=lambda kind, run: matches.update({kind: match_images(run)})
    )
    for kind, of_kind in matches.items():
        once = np.ones((9, 1), np.int32)
        [values] = resampled_precision(of_kind, detections_by_class(of_kind), once)
        expected = [row.values[f"{kind}/AP"] for row in metrics.per_class]
        assert values == pytest.approx(expected, abs=1e-12)
        comparison = compare_average_precision(of_kind, of_kind, resamples=2)
        assert comparison.overall.value_a == metrics.values[f"{kind}/AP"]


def test_equal_detectors_differ_by_exactly_nothing(pair):
    a, b = pair
    same = compare_average_precision(a, a, resamples=50)
    assert (same.overall.difference, same.overall.low, same.overall.high) == (0, 0, 0)
    assert all((each.low, each.high) == (0, 0) for each in same.per_class.values())
    there = compare_average_precision(a, b, resamples=50).overall
    back = compare_average_precision(b, a, resamples=50).overall
    assert there.low < there.difference < there.high
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)


def test_the_seed_decides_the_result(pair):
    first, second = (compare_average_precision(*pair, resamples=130, seed=1) for _ in range(2))
    assert first == second
    assert compare_average_precision(*pair, resamples=130, seed=2).overall != first.overall


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    """90% intervals of 120 datasets of 60 images; the standard error of the share is 2.7%."""
    rng = np.random.default_rng(0)
    skills = ((0.5, 0.1), (0.7, 0.2))

    def compare(images, resamples, seed=0):
        objects = draw_objects(rng, images)
        a, b = (draw_detector(rng, objects, images, 2, *skill) for skill in skills)
        return compare_average_precision(a, b, "AP", resamples, 0.9, seed).overall

    truth = compare(images=20_000, resamples=1).difference
    intervals = [compare(60, 120, seed) for seed in range(120)]
    covered = sum(each.low <= truth <= each.high for each in intervals)
    assert 0.82 < covered / 120 < 0.98
    # The intervals are narrow enough to see this difference in most such datasets.
    assert sum(each.low > 0 for each in intervals) > 90


def test_a_class_that_a_resample_lacks_is_left_out(pair):
    a, _ = pair
    only = np.zeros((IMAGES, 1), np.int32)
    only[a.object_images[a.object_classes == 1][0]] = 3
    [values] = resampled_precision(a, detections_by_class(a), only)
    has_objects = np.bincount(a.object_classes, weights=only[a.object_images, 0], minlength=CLASSES)
    assert np.isnan(values).tolist() == (has_objects == 0).tolist()


def test_other_images_and_other_objects_are_refused(pair):
    a, _ = pair
    rng = np.random.default_rng(1)
    others = draw_objects(rng, IMAGES, CLASSES)
    b = draw_detector(rng, others, IMAGES, CLASSES, 0.5, 0.2)
    with pytest.raises(DifferentDataError, match="different objects"):
        compare_average_precision(a, b)
    with pytest.raises(DifferentDataError, match=r"different images \(40 and 39\)"):
        compare_average_precision(a, repeat_images(a, [0] + [1] * 39))
    with pytest.raises(ValueError, match="AP90 cannot be resampled"):
        compare_average_precision(a, a, metric="AP90")
