"""VOC AP: known answers, and a plain reference implementation of the development kit's loop."""

import numpy as np
import pytest

from pipeline.evaluate.voc_metrics import voc_metrics

# Boxes are x y w h. Ten objects in a row, each 10 x 10, in one image.
ROW = [[20 * n, 0, 10, 10] for n in range(10)]
ELSEWHERE = [0, 500, 10, 10]


def ground_truth(boxes, difficult=(), category=3, image=1):
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
    """Return results by descending score."""
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": 1 - number / 100}
        for number, box in enumerate(boxes)
    ]


def both_protocols(gt, results):
    """Return the eleven-point AP and the area AP of category 3."""
    return tuple(voc_metrics(gt, results, eleven_points)[3] for eleven_points in (True, False))


def test_half_of_the_objects_detected():
    # Precision 1 up to recall 0.5: six of eleven recalls, and half of the area.
    gt = ground_truth(ROW)
    assert both_protocols(gt, detections(ROW[:5])) == pytest.approx((6 / 11, 0.5))


def test_a_recall_of_an_exact_tenth_counts_at_that_step():
    for detected in range(11):
        eleven, area = both_protocols(ground_truth(ROW), detections(ROW[:detected]))
        assert eleven == pytest.approx((detected + 1) / 11 if detected else 0)
        assert area == pytest.approx(detected / 10)


def test_a_false_positive_between_two_true_ones():
    # True, false, true for 2 objects: precision 1 at recall 0.5, 2/3 at 1.
    results = detections([ROW[0], ELSEWHERE, ROW[1]])
    expected = ((6 + 5 * 2 / 3) / 11, 0.5 + 1 / 3)
    assert both_protocols(ground_truth(ROW[:2]), results) == pytest.approx(expected)


def test_precision_at_a_recall_is_the_highest_at_that_recall_or_above():
    # False, true, true for 2 objects: 1/2 at recall 0.5, but 2/3 at 1.
    results = detections([ELSEWHERE, *ROW[:2]])
    assert both_protocols(ground_truth(ROW[:2]), results) == pytest.approx((2 / 3, 2 / 3))


def test_a_second_detection_of_an_object_is_a_false_positive():
    results = detections([ROW[0], ROW[0]])
    assert both_protocols(ground_truth(ROW[:1]), results) == pytest.approx((1, 1))
    results = detections([ROW[0], ROW[0], ROW[1]])
    assert both_protocols(ground_truth(ROW[:2]), results)[1] == pytest.approx(0.5 + 1 / 3)


def test_an_iou_of_exactly_one_half_is_a_match():
    # 10 x 10 within 10 x 20: IoU 100 / 200.
    results = detections([[0, 0, 10, 10]])
    assert both_protocols(ground_truth([[0, 0, 10, 20]]), results) == (1, 1)
    assert both_protocols(ground_truth([[0, 0, 10, 20.1]]), results) == (0, 0)


def test_a_difficult_object_and_its_detections_are_ignored():
    gt = ground_truth(ROW[:3], difficult={0})
    results = detections([ROW[0], ROW[0], ROW[1], ROW[2]])
    assert both_protocols(gt, results) == pytest.approx((1, 1))
    assert both_protocols(gt, detections(ROW[1:3])) == pytest.approx((1, 1))


def test_a_class_without_objects_is_not_measured():
    assert both_protocols(ground_truth(ROW[:1], difficult={0}), detections(ROW[:1])) == (-1, -1)
    assert both_protocols(ground_truth([]), []) == (-1, -1)


def test_a_class_without_detections_has_an_ap_of_zero():
    assert both_protocols(ground_truth(ROW), []) == (0, 0)
    assert both_protocols(ground_truth(ROW), detections(ROW, image=2)) == (0, 0)


def reference_ap(gt, results, category, eleven_points):
    """Compute AP with the development kit's loop over detections."""
    objects = [{**a, "detected": False} for a in gt["annotations"] if a["category_id"] == category]
    count = sum(not a["iscrowd"] for a in objects)
    of_class = [r for r in results if r["category_id"] == category]
    curve, true, false = [], 0, 0
    for result in sorted(of_class, key=lambda r: -r["score"]):
        best, match = -1.0, None
        for each in objects:
            if each["image_id"] != result["image_id"]:
                continue
            x, y, w, h = each["bbox"]
            u, v, p, q = result["bbox"]
            width = max(min(x + w, u + p) - max(x, u), 0)
            intersection = width * max(min(y + h, v + q) - max(y, v), 0)
            iou = intersection / (w * h + p * q - intersection)
            if iou > best:
                best, match = iou, each
        if best >= 0.5 and match["iscrowd"]:
            continue
        if best >= 0.5 and not match["detected"]:
            match["detected"] = True
            true += 1
        else:
            false += 1
        curve.append((true / count, true / (true + false)))
    if eleven_points:
        steps = [[p for r, p in curve if r >= t / 10 - 1e-9] for t in range(11)]
        return sum(max(step, default=0) for step in steps) / 11
    # Between two recalls that can occur, the envelope is constant.
    midpoints = (np.arange(count) + 0.5) / count
    return np.mean([max((p for r, p in curve if r >= t), default=0) for t in midpoints])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eleven_points", [True, False])
def test_ap_equals_the_reference_implementation(seed, eleven_points):
    rng = np.random.default_rng(seed)
    gt = {
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
            gt["annotations"].append({**labels, "bbox": box.tolist(), "iscrowd": crowd})
            for _ in range(rng.integers(4)):
                near = box + rng.normal(0, 4, 4)
                results.append({**labels, "bbox": near.tolist(), "score": rng.random()})
    results.append({"image_id": 7, "category_id": 2, "bbox": [1, 1, 5, 5], "score": 0.9})
    values = voc_metrics(gt, results, eleven_points)
    for category, value in values.items():
        expected = reference_ap(gt, results, category, eleven_points)
        # The terms are summed in another order.
        assert value == pytest.approx(expected, abs=1e-12)
        assert 0 < value < 1
