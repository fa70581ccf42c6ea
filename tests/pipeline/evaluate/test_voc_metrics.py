"""VOC's number: known answers by hand, and a plain retelling of the rule as referee."""

import numpy as np
import pytest

from pipeline.evaluate.voc_metrics import mean_of_measured, voc_metrics

# Boxes are x y w h. Ten objects in a row, each 10 x 10, in one image.
ROW = [[20 * n, 0, 10, 10] for n in range(10)]
ELSEWHERE = [0, 500, 10, 10]


def truth(boxes, difficult=(), category=3, image=1):
    return {
        "images": [{"id": image}],
        "categories": [{"id": category, "name": "a"}],
        "annotations": [
            {
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "iscrowd": int(number in difficult),
            }
            for number, box in enumerate(boxes)
        ],
    }


def detections(boxes, category=3, image=1):
    """The first is the surest."""
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": 1 - number / 100}
        for number, box in enumerate(boxes)
    ]


def both(ground_truth, results):
    return tuple(voc_metrics(ground_truth, results, eleven)[3] for eleven in (True, False))


def test_half_of_the_objects_found_surely():
    # Precision 1 up to recall 0.5: at six of eleven recalls, and over half the area.
    assert both(truth(ROW), detections(ROW[:5])) == pytest.approx((6 / 11, 0.5))


def test_a_recall_of_exactly_a_tenth_step_counts_at_that_step():
    for found in range(11):
        eleven, area = both(truth(ROW), detections(ROW[:found]))
        assert eleven == pytest.approx((found + 1) / 11 if found else 0)
        assert area == pytest.approx(found / 10)


def test_a_wrong_one_between_two_right_ones():
    # Right, wrong, right of 2: precision 1 at recall 0.5, 2/3 at 1.
    results = detections([ROW[0], ELSEWHERE, ROW[1]])
    assert both(truth(ROW[:2]), results) == pytest.approx(((6 + 5 * 2 / 3) / 11, 0.5 + 1 / 3))


def test_precision_at_a_recall_is_the_best_at_that_or_a_higher_one():
    # Wrong, right, right of 2: 1/2 at recall 0.5, but 2/3 at 1.
    assert both(truth(ROW[:2]), detections([ELSEWHERE, *ROW[:2]])) == pytest.approx((2 / 3, 2 / 3))


def test_the_second_at_an_object_is_wrong():
    assert both(truth(ROW[:1]), detections([ROW[0], ROW[0]])) == pytest.approx((1, 1))
    results = detections([ROW[0], ROW[0], ROW[1]])
    assert both(truth(ROW[:2]), results)[1] == pytest.approx(0.5 + 1 / 3)


def test_an_overlap_of_exactly_a_half_is_enough():
    # 10 x 10 and its 10 x 20 double: IoU 100 / 200.
    assert both(truth([[0, 0, 10, 20]]), detections([[0, 0, 10, 10]])) == (1, 1)
    assert both(truth([[0, 0, 10, 20.1]]), detections([[0, 0, 10, 10]])) == (0, 0)


def test_a_difficult_object_neither_counts_nor_makes_its_detections_wrong():
    ground_truth = truth(ROW[:3], difficult={0})
    results = detections([ROW[0], ROW[0], ROW[1], ROW[2]])
    assert both(ground_truth, results) == pytest.approx((1, 1))
    assert both(ground_truth, detections(ROW[1:3])) == pytest.approx((1, 1))


def test_a_class_without_objects_is_not_measured():
    assert both(truth(ROW[:1], difficult={0}), detections(ROW[:1])) == (-1, -1)
    assert both(truth([]), []) == (-1, -1)
    assert mean_of_measured({1: 0.5, 2: -1.0, 3: 0.25}) == 0.375
    assert mean_of_measured({1: -1.0}) == -1


def test_a_class_without_detections_has_zero():
    assert both(truth(ROW), []) == (0, 0)
    assert both(truth(ROW), detections(ROW, image=2)) == (0, 0)


def retold(ground_truth, results, category, eleven):
    """The development kit's loop, one detection after the other."""
    objects = [
        {**a, "found": False} for a in ground_truth["annotations"] if a["category_id"] == category
    ]
    count = sum(not a["iscrowd"] for a in objects)
    own = [r for r in results if r["category_id"] == category]
    curve, right, wrong = [], 0, 0
    for result in sorted(own, key=lambda r: -r["score"]):
        best, nearest = -1.0, None
        for each in objects:
            if each["image_id"] != result["image_id"]:
                continue
            x, y, w, h = each["bbox"]
            u, v, p, q = result["bbox"]
            shared = max(min(x + w, u + p) - max(x, u), 0) * max(min(y + h, v + q) - max(y, v), 0)
            iou = shared / (w * h + p * q - shared)
            if iou > best:
                best, nearest = iou, each
        if best >= 0.5 and nearest["iscrowd"]:
            continue
        if best >= 0.5 and not nearest["found"]:
            nearest["found"] = True
            right += 1
        else:
            wrong += 1
        curve.append((right / count, right / (right + wrong)))
    if eleven:
        steps = [[p for r, p in curve if r >= t / 10 - 1e-9] for t in range(11)]
        return sum(max(step, default=0) for step in steps) / 11
    # A fine comb over the recall.
    comb = (np.arange(count) + 0.5) / count
    return np.mean([max((p for r, p in curve if r >= t), default=0) for t in comb])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eleven", [True, False])
def test_it_is_the_development_kits_rule(seed, eleven):
    rng = np.random.default_rng(seed)
    ground_truth = {
        "images": [{"id": n} for n in range(8)],
        "categories": [{"id": 2, "name": "a"}, {"id": 9, "name": "b"}],
        "annotations": [],
    }
    results = []
    for image in range(7):
        for _ in range(rng.integers(1, 7)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(10, 40, 2)])
            labels = {"image_id": image, "category_id": int(rng.choice([2, 9]))}
            crowd = int(rng.random() < 0.2)
            ground_truth["annotations"].append({**labels, "bbox": box.tolist(), "iscrowd": crowd})
            for _ in range(rng.integers(4)):
                near = box + rng.normal(0, 4, 4)
                results.append({**labels, "bbox": near.tolist(), "score": rng.random()})
    results.append({"image_id": 7, "category_id": 2, "bbox": [1, 1, 5, 5], "score": 0.9})
    values = voc_metrics(ground_truth, results, eleven)
    for category, value in values.items():
        # The same sums in another order.
        assert value == pytest.approx(retold(ground_truth, results, category, eleven), abs=1e-12)
        assert 0 < value < 1
