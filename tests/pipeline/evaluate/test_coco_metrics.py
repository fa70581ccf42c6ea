"""COCO metrics equal those of a plain pycocotools run, without its output and its pitfalls."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.metrics import COCO_METRICS

SIDE = 128
CATEGORIES = [{"id": n, "name": f"thing {n}"} for n in (3, 7, 90)]


def random_boxes(rng, count):
    corner = rng.uniform(0, SIDE * 0.6, (count, 2))
    side = rng.uniform(4, SIDE * 0.4, (count, 2))
    return np.concatenate([corner, side], axis=1)


def rle_of_box(box):
    bitmap = np.zeros((SIDE, SIDE), np.uint8, order="F")
    x, y, w, h = (round(side) for side in box)
    bitmap[y : y + h, x : x + w] = 1
    rle = rle_codec.encode(bitmap)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def polygon_of_box(box):
    x, y, w, h = (float(side) for side in box)
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def random_case(seed, images=6, objects=5, noise=3.0):
    """Return ground truth with crowds and an empty image, and detections scattered around it."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(100, 100 + images - 1):
        for box in random_boxes(rng, objects):
            category_id = CATEGORIES[rng.integers(3)]["id"]
            annotations.append(
                {
                    "id": len(annotations),  # from 0, which pycocotools alone would misread
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": rle_of_box(box) if rng.random() < 0.3 else polygon_of_box(box),
                }
            )
            for _ in range(rng.integers(3)):
                detected = np.clip(box + rng.normal(0, noise, 4), 1, SIDE)
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id if rng.random() < 0.8 else 3,
                        "bbox": detected.tolist(),
                        "score": float(rng.random()),
                        "segmentation": rle_of_box(detected),
                    }
                )
    gt = {
        "images": [
            {"id": n, "height": SIDE, "width": SIDE, "file_name": f"{n}.jpg"}
            for n in range(100, 100 + images)
        ],
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    return gt, results


def perfect_results(gt):
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "score": 0.9,
            "segmentation": rle_of_box(annotation["bbox"]),
        }
        for annotation in gt["annotations"]
    ]


def evaluate_with_pycocotools(gt, results, kind):
    gt = copy.deepcopy(gt)
    for number, annotation in enumerate(gt["annotations"], start=1):
        annotation["id"] = number
    results = copy.deepcopy(results)
    if kind == "segm":
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = gt
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), iouType=kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()


def assert_equals_pycocotools(values, gt, results, kind):
    expected = evaluate_with_pycocotools(gt, results, kind)
    # The means are sums in another order: 2e-16.
    measured = [values[f"{kind}/{metric}"] for metric in COCO_METRICS]
    assert measured == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_all_twelve_metrics_equal_pycocotools(seed, kind):
    gt, results = random_case(seed)
    values = coco_metrics(gt, results).values
    assert_equals_pycocotools(values, gt, results, kind)
    assert 0.0 < values[f"{kind}/AP"] < 1.0


@pytest.mark.parametrize("seed", range(20, 32))
def test_ties_borders_of_sizes_and_many_detections_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    gt, results = random_case(seed, objects=int(rng.integers(1, 12)))
    for result in results:
        result["score"] = round(result["score"], 1)
    for annotation in gt["annotations"]:
        annotation["area"] = float(rng.choice([0, 32**2, 32**2 + 1e-4, 96**2, 1e5]))
    results = [dict(result) for _ in range(30) for result in results]  # beyond 100 in an image
    values = coco_metrics(gt, results).values
    for kind in ("bbox", "segm"):
        assert_equals_pycocotools(values, gt, results, kind)


def test_class_metrics_average_to_the_total_and_equal_a_run_on_the_class_alone():
    gt, results = random_case(11)
    metrics = coco_metrics(gt, results)
    rows = [row.values["segm/AP"] for row in metrics.per_class if row.objects]
    assert np.mean(rows) == pytest.approx(metrics.values["segm/AP"], abs=1e-12)
    for row in metrics.per_class:
        class_gt = {
            **gt,
            "categories": [c for c in CATEGORIES if c["id"] == row.category_id],
            "annotations": [a for a in gt["annotations"] if a["category_id"] == row.category_id],
        }
        class_results = [r for r in results if r["category_id"] == row.category_id]
        alone = coco_metrics(class_gt, class_results).values
        assert row.values["bbox/AP"] == pytest.approx(alone["bbox/AP"], abs=1e-12)
        assert row.values["bbox/AP50"] == pytest.approx(alone["bbox/AP50"], abs=1e-12)


def test_a_perfect_detector_has_an_ap_of_one():
    gt, _ = random_case(5)
    for annotation in gt["annotations"]:
        annotation |= {"iscrowd": 0, "segmentation": rle_of_box(annotation["bbox"])}
    values = coco_metrics(gt, perfect_results(gt)).values
    assert values["bbox/AP"] == pytest.approx(1.0)
    assert values["segm/AP"] == pytest.approx(1.0)


def test_size_ranges_of_masks_use_the_area_of_the_mask():
    """A thin mask in a large box is a small object for "segm" and a large one for "bbox"."""
    bitmap = np.zeros((SIDE, SIDE), np.uint8, order="F")
    bitmap[10, 10:110] = bitmap[10:110, 10] = 1
    rle = rle_codec.encode(bitmap)
    thin = {"size": rle["size"], "counts": rle["counts"].decode()}
    box = [10.0, 10.0, 100.0, 100.0]
    gt = {
        "images": [{"id": 1, "height": SIDE, "width": SIDE}],
        "annotations": [],
        "categories": CATEGORIES,
    }
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": box, "iscrowd": 0}
    gt["annotations"].append(annotation | {"area": int(bitmap.sum()), "segmentation": thin})
    correct = {"image_id": 1, "category_id": 3, "bbox": box, "score": 0.5, "segmentation": thin}
    wrong = correct | {"score": 0.9, "image_id": 1, "segmentation": rle_of_box([60, 60, 5, 5])}
    values = coco_metrics(gt, [correct, wrong], ["segm"]).values
    # The wrong detection is small too, so it counts among the small ones.
    assert values["segm/APs"] == pytest.approx(0.5, abs=0.01)
    assert values["segm/APl"] == -1


def test_without_results_metrics_are_zero_and_without_objects_minus_one():
    gt, _ = random_case(2)
    assert coco_metrics(gt, []).values["segm/AP"] == 0.0
    without_objects = coco_metrics({**gt, "annotations": []}, [])
    assert set(without_objects.values.values()) == {-1.0}
    assert [row.objects for row in without_objects.per_class] == [0, 0, 0]


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_an_unknown_id_is_an_error_that_names_it(key):
    gt, results = random_case(3)
    results[0][key] = 4242
    with pytest.raises(ValueError, match=rf"{key}.*4242"):
        coco_metrics(gt, results)


def test_nothing_is_printed_and_no_argument_is_changed(capsys):
    gt, results = random_case(1)
    before = copy.deepcopy((gt, results))
    coco_metrics(gt, results)
    assert capsys.readouterr() == ("", "")
    assert (gt, results) == before


def test_objects_without_a_mask_are_left_out_of_mask_metrics_and_counted():
    gt, _ = random_case(0)
    for annotation in gt["annotations"]:
        annotation |= {"iscrowd": 0, "segmentation": rle_of_box(annotation["bbox"])}
    gt["annotations"][0]["segmentation"] = []
    metrics = coco_metrics(gt, perfect_results(gt))
    assert metrics.values["segm/AP"] == pytest.approx(1.0)
    assert any(note.startswith("Objects without a mask: 1.") for note in metrics.notes)
    missed = coco_metrics(gt, perfect_results(gt)[1:])
    assert missed.values["segm/AP"] == pytest.approx(1.0)
    assert missed.values["bbox/AP"] < 0.99
    assert not coco_metrics(gt, [], ["bbox"]).notes


def crowded_case(objects):
    """Return an image with a grid of objects of one class, and a perfect detection of each."""
    boxes = [[12.0 * (n % 10), 12.0 * (n // 10), 10.0, 10.0] for n in range(objects)]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 3, "bbox": box, "area": 100.0, "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    images = [{"id": 1, "width": 1000, "height": 1000}]
    gt = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    results = [
        {"image_id": 1, "category_id": 3, "bbox": box, "score": 1.0 - n / 1000}
        for n, box in enumerate(boxes)
    ]
    return gt, results


def test_more_detections_can_count_where_images_are_crowded():
    gt, results = crowded_case(150)
    limited = coco_metrics(gt, results, ["bbox"])
    # 100 of 150 objects are found: of the 101 recall thresholds, 67 are at most 2/3.
    assert limited.values["bbox/AP"] == pytest.approx(67 / 101)
    assert limited.values["bbox/AR100"] == pytest.approx(100 / 150)
    assert "Images with more than 100 objects of a class: 1" in limited.notes[0]
    raised = coco_metrics(gt, results, ["bbox"], max_detections=150)
    assert raised.values["bbox/AP"] == pytest.approx(1.0)
    assert raised.values["bbox/AR150"] == pytest.approx(1.0)
    assert "bbox/AR100" not in raised.values
    assert raised.per_class[0].values["bbox/AP"] == pytest.approx(1.0)
    assert ["not COCO's 100" in note for note in raised.notes] == [True]


def test_ordinary_images_have_no_note_about_the_limit():
    assert coco_metrics(*crowded_case(100), ["bbox"]).notes == ()


def test_nothing_is_printed_or_logged(capsys, caplog):
    with caplog.at_level("INFO"):
        coco_metrics(*random_case(0))
    assert (capsys.readouterr().out, caplog.text) == ("", "")
