"""Object keypoint similarity: pycocotools' numbers."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from pipeline.evaluate.coco_metrics import KEYPOINT_NUMBERS, NUMBERS, UNIFORM_SIGMA, coco_metrics
from pipeline.evaluate.predictions import metric_kinds
from pipeline.shards.keypoints import KeypointSet

SIDE = 200


def random_case(seed, names=COCO_PERSON_KEYPOINTS, noise=2.0):
    """People with hidden, unlabelled and no points, a crowd, a category without keypoints."""
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
            truth = points * (points[:, 2:] > 0)
            category_id = 1 if rng.random() < 0.8 else 3
            box = [*corner.tolist(), *side.tolist()]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": float(side.prod() * 0.6),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": truth.ravel().tolist(),
                    "num_keypoints": int((truth[:, 2] > 0).sum()),
                }
            )
            for _ in range(rng.integers(3)):
                guess = points + rng.normal(0, noise, points.shape)
                guess[:, 2] = 1
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "score": float(rng.random()),
                        "keypoints": guess.ravel().tolist(),
                    }
                )
    person = {"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}
    return {
        "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(7, 14)],
        "annotations": annotations,
        "categories": [person, {"id": 3, "name": "thing"}],
    }, results


def by_hand(truth, results, sigma=None):
    truth, results = copy.deepcopy((truth, results))
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    for result in results:
        del result["bbox"]  # as COCO's server takes them
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(results), iouType="keypoints")
        if sigma is not None:
            count = len(truth["categories"][0]["keypoints"])
            judged.params.kpt_oks_sigmas = np.full(count, sigma)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_ten_numbers_are_those_of_pycocotools(seed):
    truth, results = random_case(seed)
    before = copy.deepcopy((truth, results))
    measured = coco_metrics(truth, results, ["bbox", "keypoints"])
    numbers = [measured.values[f"keypoints/{number}"] for number in KEYPOINT_NUMBERS]
    assert numbers == by_hand(truth, results)
    assert 0.0 < measured.values["keypoints/AP"] < 1.0
    assert set(measured.values) == {f"bbox/{n}" for n in NUMBERS} | {
        f"keypoints/{n}" for n in KEYPOINT_NUMBERS
    }
    assert measured.notes == ()
    assert (truth, results) == before


def test_other_points_than_cocos_get_one_sigma_and_a_note():
    truth, results = random_case(4, names=("front", "left_side", "right_side"))
    measured = coco_metrics(truth, results, ["keypoints"])
    assert list(measured.values.values()) == by_hand(truth, results, UNIFORM_SIGMA)
    assert "sigma of 0.05" in measured.notes[0]


def test_a_known_distance_has_the_similarity_of_the_formula():
    """OKS of .72 passes the five thresholds up to .7, so AP is a half."""
    area, sigma, wanted = 5000.0, UNIFORM_SIGMA, 0.72
    distance = float(np.sqrt(-np.log(wanted) * 2 * area * (2 * sigma) ** 2))
    truth = {
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
    found = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    found["keypoints"] = [30 + distance, 40, 1, 60, 50 - distance, 1]
    assert coco_metrics(truth, [found], ["keypoints"]).values["keypoints/AP"] == pytest.approx(0.5)


def test_no_results_is_zero_and_nothing_labelled_is_minus_one():
    truth, _ = random_case(2)
    assert coco_metrics(truth, [], ["keypoints"]).values["keypoints/AP"] == 0.0
    for annotation in truth["annotations"]:
        annotation |= {"keypoints": [0] * 51, "num_keypoints": 0}
    assert set(coco_metrics(truth, [], ["keypoints"]).values.values()) == {-1.0}


def test_another_number_of_points_or_no_names_is_an_error():
    truth, results = random_case(3)
    results[0]["keypoints"] = results[0]["keypoints"][:9]
    with pytest.raises(ValueError, match=r"has 17 keypoints, the results have \[3\]"):
        coco_metrics(truth, results, ["keypoints"])
    del truth["categories"][0]["keypoints"]
    with pytest.raises(ValueError, match="name no keypoints"):
        coco_metrics(truth, [], ["keypoints"])


def test_what_is_measured_follows_the_heads_and_the_data(caplog):
    person = COCO_PERSON_KEYPOINTS
    of_data = KeypointSet(person, (), (1,))
    assert metric_kinds(of_data, has_masks=False, found_keypoints=None) == ("bbox",)
    assert metric_kinds(of_data, True, list(person)) == ("bbox", "segm", "keypoints")
    assert not caplog.records
    assert metric_kinds(None, False, person) == ("bbox",)
    assert "no keypoints" in caplog.text
    with pytest.raises(ValueError, match="another order"):
        metric_kinds(of_data, False, person[::-1])
