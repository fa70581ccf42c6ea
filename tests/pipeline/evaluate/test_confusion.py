"""The confusion matrix counts each object and each confident detection once."""

import numpy as np
import pytest

from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.confusion import confusion_matrix
from tests.pipeline.evaluate.test_coco_metrics import random_case

HERE, THERE, AWAY = [10, 10, 20, 20], [50, 50, 20, 20], [90, 90, 20, 20]


def confusion(gt, results, score_threshold=0.5):
    matrices = []
    coco_metrics(
        gt,
        results,
        ("bbox",),
        inspect=lambda _, run: matrices.append(confusion_matrix(run, score_threshold)),
    )
    return matrices[0]


def case(objects, detections):
    gt, _ = random_case(seed=0, images=2)
    gt["annotations"] = [
        {"id": n, "image_id": 100, "category_id": c, "bbox": b, "area": 400, "iscrowd": crowd}
        for n, (c, b, crowd) in enumerate(objects)
    ]
    return gt, [
        {"image_id": 100, "category_id": c, "bbox": b, "score": s} for c, b, s in detections
    ]


def test_right_wrong_missed_and_false():
    matrix = confusion(
        *case(
            [(3, HERE, 0), (7, THERE, 0), (90, [60, 10, 20, 20], 0)],
            [(3, HERE, 0.9), (90, THERE, 0.8), (7, AWAY, 0.7), (7, HERE, 0.6), (3, AWAY, 0.2)],
        )
    )
    names = ("thing 3", "thing 7", "thing 90")
    assert matrix.names == names
    # The second detection at HERE finds the object taken.
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 2] = expected[2, 3] = 1
    expected[3, 1] = 2
    assert matrix.counts.tolist() == expected.tolist()
    assert matrix.confusions()[0] == ("background", "thing 7", 2)
    assert set(matrix.confusions()[1:]) == {
        ("thing 7", "thing 90", 1),
        ("thing 90", "background", 1),
    }


def test_detections_on_a_crowd_region_do_not_count():
    crowd = [(3, [0, 0, 100, 100], 1)]
    matrix = confusion(*case(crowd, [(3, HERE, 0.9), (7, THERE, 0.9), (7, [101, 0, 9, 9], 0.9)]))
    assert matrix.counts.sum() == 1
    assert matrix.confusions() == [("background", "thing 7", 1)]


@pytest.mark.parametrize("seed", range(4))
def test_every_object_and_every_detection_is_counted_once(seed):
    gt, results = random_case(seed, images=8)
    gt["annotations"] = [{**each, "iscrowd": 0} for each in gt["annotations"]]
    matrix = confusion(gt, results, score_threshold=0.3)
    for k, category in enumerate(gt["categories"]):
        objects = sum(each["category_id"] == category["id"] for each in gt["annotations"])
        confident = [each for each in results if each["score"] >= 0.3]
        detections = sum(each["category_id"] == category["id"] for each in confident)
        assert matrix.counts[k].sum() == objects
        assert matrix.counts[:, k].sum() == detections
