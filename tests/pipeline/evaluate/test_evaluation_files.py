"""Calibration and the table of the classes, on records with known answers."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from model.images.decode import decode_image
from pipeline.evaluate.calibration import score_calibration
from pipeline.evaluate.class_table import class_table
from pipeline.evaluate.evaluation_plots import plot_calibration, plot_precision_recall
from pipeline.evaluate.evaluation_record import class_metrics
from pipeline.evaluate.metrics import ClassMetrics
from tests.pipeline.evaluate.synthetic_matches import draw_detector, draw_objects

PNG_SIZE = (450, 600, 3)


@pytest.fixture
def matches():
    rng = np.random.default_rng(0)
    objects = draw_objects(rng, images=300, classes=2)
    return draw_detector(rng, objects, 300, 2, recall=0.6, quality=0.3)


def test_scores_that_are_the_chance_to_be_right_are_calibrated(matches):
    rng = np.random.default_rng(1)
    right = rng.random(len(matches.scores)) < matches.scores
    matched = np.repeat(right[:, None], 10, axis=1)
    calibrated = score_calibration(replace(matches, matched=matched))
    assert calibrated.error < 0.05
    assert calibrated.counts.sum() == len(matches.scores)
    overconfident = score_calibration(replace(matches, matched=np.zeros_like(matched)))
    assert overconfident.error == pytest.approx(matches.scores.mean())


def test_detections_on_crowd_regions_have_no_calibration(matches):
    everywhere = replace(matches, ignored=np.ones_like(matches.ignored))
    nothing = score_calibration(everywhere)
    assert nothing.counts.sum() == 0
    assert np.isnan(nothing.error)


def test_the_table_of_the_classes_counts_objects_and_mistakes(matches):
    rows = [
        ClassMetrics(n, name, int((matches.object_classes == n).sum()), {"bbox/AP": 0.5 - n})
        for n, name in enumerate(("cat", "dog, big"))
    ]
    text = class_table(rows, {"bbox": matches}, score_threshold=0.5)
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["class"] for row in table] == ["cat", "dog, big"]
    assert [row["bbox/AP"] for row in table] == ["0.5000", ""]
    for row in table:
        assert int(row["bbox matched"]) + int(row["bbox missed"]) == int(row["objects"])
    confident = matches.scores >= 0.5
    false = sum(int(row["bbox false positives"]) for row in table)
    assert false == (confident & ~matches.matched[:, 0]).sum()


def test_class_metrics_have_names_that_mlflow_takes():
    rows = [
        ClassMetrics(1, "a/b", 3, {"bbox/AP": 0.5, "bbox/AP50": 0.7}),
        ClassMetrics(2, "a?b", 3, {"bbox/AP": 0.4}),
        ClassMetrics(3, "absent", 0, {"bbox/AP": -1.0}),
    ]
    assert class_metrics(rows) == {"bbox/AP/a_b": 0.5, "bbox/AP/a_b 2": 0.4}
    many = [ClassMetrics(n, f"class {n}", 1, {"bbox/AP": 0.1}) for n in range(201)]
    assert class_metrics(many) == {}


def test_plots_can_be_drawn_without_objects_and_without_detections(matches):
    nothing = score_calibration(replace(matches, ignored=np.ones_like(matches.ignored)))
    assert decode_image(plot_calibration(nothing, "Boxes")).std() > 0
    table = np.full((10, 101, 2), -1.0)
    assert decode_image(plot_precision_recall(table, "Boxes")).shape == PNG_SIZE
