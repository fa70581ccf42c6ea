"""Keypoint metrics, based on object keypoint similarity (OKS), equal those of pycocotools."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from pipeline.evaluate.coco_metrics import UNIFORM_SIGMA, coco_metrics
from pipeline.evaluate.metrics import COCO_METRICS, KEYPOINT_METRICS

SIDE = 200


def random_case(seed, names=COCO_PERSON_KEYPOINTS, noise=2.0):
    """Return people with occluded, unlabeled and no keypoints, crowds, and a class without any."""
    rng = np.random.default_rng(seed)
    count = len(names)
    annotations, results = [], []
    for image_id in range(7, 13):
        for _ in range(4):
            corner, side = rng.uniform(0, 90, 2), rng.uniform(20, 100, 2)
            points = np.concatenate(
                [corner + rng.uniform(0, 1, (count, 2)) * side, rng.integers(0, 3, (count, 1))], 1
            )
            points[:, 2] *= rng.random() < 0.8
            labeled = points * (points[:, 2:] > 0)
            category_id = 1 if rng.random() < 0.8 else 3
            box = [*corner.tolist(), *side.tolist()]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": float(side.prod() * 0.6),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": labeled.ravel().tolist(),
                    "num_keypoints": int((labeled[:, 2] > 0).sum()),
                }
            )
            for _ in range(rng.integers(3)):
                detected = points + rng.normal(0, noise, points.shape)
                detected[:, 2] = 1
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "score": float(rng.random()),
                        "keypoints": detected.ravel().tolist(),
                    }
                )
    person = {"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}
    return {
        "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(7, 14)],
        "annotations": annotations,
        "categories": [person, {"id": 3, "name": "thing"}],
    }, results


def evaluate_with_pycocotools(gt, results, sigma=None):
    gt, results = copy.deepcopy((gt, results))
    for number, annotation in enumerate(gt["annotations"], start=1):
        annotation["id"] = number
    for result in results:
        del result["bbox"]  # as COCO's server expects
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = gt
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), iouType="keypoints")
        if sigma is not None:
            count = len(gt["categories"][0]["keypoints"])
            evaluator.params.kpt_oks_sigmas = np.full(count, sigma)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_all_ten_metrics_equal_pycocotools(seed):
    gt, results = random_case(seed)
    before = copy.deepcopy((gt, results))
    metrics = coco_metrics(gt, results, ["bbox", "keypoints"])
    values = [metrics.values[f"keypoints/{metric}"] for metric in KEYPOINT_METRICS]
    assert values == evaluate_with_pycocotools(gt, results)
    assert 0.0 < metrics.values["keypoints/AP"] < 1.0
    assert set(metrics.values) == {f"bbox/{metric}" for metric in COCO_METRICS} | {
        f"keypoints/{metric}" for metric in KEYPOINT_METRICS
    }
    assert metrics.notes == ()
    assert (gt, results) == before


def test_keypoints_other_than_cocos_get_a_uniform_sigma_and_a_note():
    gt, results = random_case(4, names=("front", "left_side", "right_side"))
    metrics = coco_metrics(gt, results, ["keypoints"])
    expected = evaluate_with_pycocotools(gt, results, UNIFORM_SIGMA)
    # The means are sums in another order: 2e-16.
    assert list(metrics.values.values()) == pytest.approx(expected, abs=1e-12)
    assert "sigma of 0.05" in metrics.notes[0]


def test_a_known_distance_has_the_similarity_of_the_formula():
    """An OKS of .72 passes the five thresholds up to .7, so AP is one half."""
    area, sigma, similarity = 5000.0, UNIFORM_SIGMA, 0.72
    distance = float(np.sqrt(-np.log(similarity) * 2 * area * (2 * sigma) ** 2))
    gt = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["tip", "tail"]}],
        "annotations": [
            {
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 100, 100],
                "area": area,
                "iscrowd": 0,
                "keypoints": [30, 40, 2, 60, 50, 1],
                "num_keypoints": 2,
            }
        ],
    }
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    result["keypoints"] = [30 + distance, 40, 1, 60, 50 - distance, 1]
    assert coco_metrics(gt, [result], ["keypoints"]).values["keypoints/AP"] == pytest.approx(0.5)


def test_without_results_metrics_are_zero_and_without_labels_minus_one():
    gt, _ = random_case(2)
    assert coco_metrics(gt, [], ["keypoints"]).values["keypoints/AP"] == 0.0
    for annotation in gt["annotations"]:
        annotation |= {"keypoints": [0] * 51, "num_keypoints": 0}
    assert set(coco_metrics(gt, [], ["keypoints"]).values.values()) == {-1.0}


def test_another_number_of_keypoints_or_no_names_is_an_error():
    gt, results = random_case(3)
    results[0]["keypoints"] = results[0]["keypoints"][:9]
    with pytest.raises(ValueError, match=r"has 17 keypoints, the results have \[3\]"):
        coco_metrics(gt, results, ["keypoints"])
    del gt["categories"][0]["keypoints"]
    with pytest.raises(ValueError, match="names its keypoints"):
        coco_metrics(gt, [], ["keypoints"])
