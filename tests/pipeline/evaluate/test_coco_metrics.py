"""The referee's numbers: equal to pycocotools by hand, silent, and safe at the edges."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.evaluate.coco_metrics import NUMBERS, coco_metrics

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
    """Ground truth with crowds and an empty image, and detections that scatter around it."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(100, 100 + images - 1):
        for box in random_boxes(rng, objects):
            category_id = CATEGORIES[rng.integers(3)]["id"]
            annotations.append(
                {
                    "id": len(annotations),  # from 0: pycocotools alone would misread it
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": rle_of_box(box) if rng.random() < 0.3 else polygon_of_box(box),
                }
            )
            for _ in range(rng.integers(3)):
                guess = np.clip(box + rng.normal(0, noise, 4), 1, SIDE)
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id if rng.random() < 0.8 else 3,
                        "bbox": guess.tolist(),
                        "score": float(rng.random()),
                        "segmentation": rle_of_box(guess),
                    }
                )
    truth = {
        "images": [
            {"id": n, "height": SIDE, "width": SIDE, "file_name": f"{n}.jpg"}
            for n in range(100, 100 + images)
        ],
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    return truth, results


def perfect_results(truth):
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "score": 0.9,
            "segmentation": rle_of_box(annotation["bbox"]),
        }
        for annotation in truth["annotations"]
    ]


def by_hand(truth, results, kind):
    truth = copy.deepcopy(truth)
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    results = copy.deepcopy(results)
    if kind == "segm":
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(results), iouType=kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_twelve_numbers_are_those_of_pycocotools(seed, kind):
    truth, results = random_case(seed)
    judged = by_hand(truth, results, kind)
    measured = coco_metrics(truth, results).values
    assert [measured[f"{kind}/{number}"] for number in NUMBERS] == judged.stats.tolist()
    assert 0.0 < measured[f"{kind}/AP"] < 1.0


def test_the_mean_over_classes_is_the_whole_and_each_class_equals_a_run_of_its_own():
    truth, results = random_case(11)
    measured = coco_metrics(truth, results)
    rows = [row.values["segm/AP"] for row in measured.per_class if row.objects]
    assert np.mean(rows) == pytest.approx(measured.values["segm/AP"], abs=1e-12)
    for row in measured.per_class:
        alone = {
            **truth,
            "categories": [c for c in CATEGORIES if c["id"] == row.category_id],
            "annotations": [a for a in truth["annotations"] if a["category_id"] == row.category_id],
        }
        own_results = [r for r in results if r["category_id"] == row.category_id]
        own = coco_metrics(alone, own_results).values
        assert row.values["bbox/AP"] == pytest.approx(own["bbox/AP"], abs=1e-12)
        assert row.values["bbox/AP50"] == pytest.approx(own["bbox/AP50"], abs=1e-12)


def test_a_perfect_detector_scores_one():
    truth, _ = random_case(5)
    for annotation in truth["annotations"]:
        annotation |= {"iscrowd": 0, "segmentation": rle_of_box(annotation["bbox"])}
    measured = coco_metrics(truth, perfect_results(truth)).values
    assert measured["bbox/AP"] == pytest.approx(1.0)
    assert measured["segm/AP"] == pytest.approx(1.0)


def test_mask_sizes_go_by_the_area_of_the_mask():
    """A thin mask in a wide box is a small object for "segm" and a large one for "bbox"."""
    bitmap = np.zeros((SIDE, SIDE), np.uint8, order="F")
    bitmap[10, 10:110] = bitmap[10:110, 10] = 1
    rle = rle_codec.encode(bitmap)
    thin = {"size": rle["size"], "counts": rle["counts"].decode()}
    whole = [10.0, 10.0, 100.0, 100.0]
    truth = {
        "images": [{"id": 1, "height": SIDE, "width": SIDE}],
        "annotations": [],
        "categories": CATEGORIES,
    }
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": whole, "iscrowd": 0}
    truth["annotations"].append(annotation | {"area": int(bitmap.sum()), "segmentation": thin})
    guess = {"image_id": 1, "category_id": 3, "bbox": whole, "score": 0.5, "segmentation": thin}
    stray = guess | {"score": 0.9, "image_id": 1, "segmentation": rle_of_box([60, 60, 5, 5])}
    measured = coco_metrics(truth, [guess, stray], ["segm"]).values
    assert measured["segm/APs"] == pytest.approx(0.5, abs=0.01)  # the stray counts as small too
    assert measured["segm/APl"] == -1


def test_no_results_is_zero_and_nothing_to_find_is_minus_one():
    truth, _ = random_case(2)
    assert coco_metrics(truth, []).values["segm/AP"] == 0.0
    nothing = {**truth, "annotations": []}
    measured = coco_metrics(nothing, [])
    assert set(measured.values.values()) == {-1.0}
    assert [row.objects for row in measured.per_class] == [0, 0, 0]


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_an_unknown_number_is_an_error_that_names_it(key):
    truth, results = random_case(3)
    results[0][key] = 4242
    with pytest.raises(ValueError, match=rf"{key}.*4242"):
        coco_metrics(truth, results)


def test_it_prints_nothing_and_changes_nothing(capsys):
    truth, results = random_case(1)
    before = copy.deepcopy((truth, results))
    coco_metrics(truth, results)
    assert capsys.readouterr() == ("", "")
    assert (truth, results) == before
