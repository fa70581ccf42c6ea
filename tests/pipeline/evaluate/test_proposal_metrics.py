"""Recall of proposals: known answers, and the values of pycocotools without categories."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.evaluate.metrics import PROPOSAL_METRICS
from pipeline.evaluate.proposal_metrics import proposal_metrics

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def scene(*objects):
    """Return the ground truth of one image with objects of (category id, box x y w h)."""
    return {
        "images": [{"id": 5, "height": 400, "width": 400}],
        "categories": CATEGORIES,
        "annotations": [
            {
                "id": n,
                "image_id": 5,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for n, (category, box) in enumerate(objects)
        ],
    }


def proposal(box, score):
    return {"image_id": 5, "category_id": 1, "bbox": box, "score": score}


SMALL, MEDIUM, LARGE = [0, 0, 20, 20], [50, 50, 50, 50], [150, 150, 200, 200]


def test_recall_is_averaged_over_the_iou_thresholds():
    gt = scene((7, SMALL), (3, LARGE))
    # IoU 0.8 passes .5, .55, ..., .8: seven of ten thresholds. The other object is missed.
    values = proposal_metrics(gt, [proposal([150, 150, 200, 160], 0.9)]).values
    assert values["proposals/AR100"] == pytest.approx(0.35)
    assert values["proposals/ARl1000"] == pytest.approx(0.7)
    assert values["proposals/ARs100"] == 0.0
    assert values["proposals/ARm100"] == -1.0  # there is no medium object
    assert list(values) == [f"proposals/{metric}" for metric in PROPOSAL_METRICS]


def test_a_proposal_matches_one_object_and_the_101st_counts_only_at_the_limit_of_1000():
    gt = scene((7, SMALL), (3, SMALL), (3, MEDIUM))
    wrong = [proposal([300, 300, 5 + n % 7, 5], 0.9) for n in range(99)]
    correct = [proposal(SMALL, 0.8), proposal(MEDIUM, 0.5)]
    values = proposal_metrics(gt, [*correct, *wrong]).values
    # Two objects have the same box, and the proposal can match only one of them.
    assert values["proposals/AR100"] == pytest.approx(1 / 3)
    assert values["proposals/ARm100"] == 0.0
    assert values["proposals/AR1000"] == pytest.approx(2 / 3)
    assert values["proposals/ARm1000"] == 1.0
    assert values["proposals/ARs1000"] == 0.5


def test_without_proposals_recall_is_zero_and_without_objects_minus_one():
    assert proposal_metrics(scene((7, SMALL)), []).values["proposals/AR1000"] == 0.0
    assert set(proposal_metrics(scene(), [proposal(SMALL, 1.0)]).values.values()) == {-1.0}


def test_an_image_of_another_dataset_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"image_id.*99"):
        proposal_metrics(scene(), [proposal(SMALL, 1.0) | {"image_id": 99}])


def random_case(seed):
    rng = np.random.default_rng(seed)
    gt, results = scene(), []
    gt["images"] = [{"id": n, "height": 400, "width": 400} for n in range(4)]
    for image in range(4):
        for _ in range(12):
            box = [*rng.uniform(0, 200, 2).tolist(), *rng.uniform(8, 180, 2).tolist()]
            gt["annotations"].append(
                {
                    "id": len(gt["annotations"]) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice([7, 3])),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(10):
                near = (np.array(box) + rng.normal(0, 8, 4)).clip(1).tolist()
                score = float(rng.random())
                results.append(proposal(near, score) | {"image_id": image})
    return gt, results


@pytest.mark.parametrize("seed", range(2))
def test_recall_equals_pycocotools_without_categories(seed):
    gt, results = random_case(seed)
    values = proposal_metrics(gt, results).values
    for limit in (100, 1000):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = gt
            coco.createIndex()
            evaluator = COCOeval(
                coco, coco.loadRes([result | {"category_id": 7} for result in results]), "bbox"
            )
            evaluator.params.useCats = 0
            evaluator.params.maxDets = [1, 10, limit]
            evaluator.evaluate()
            evaluator.accumulate()
            # summarize() reads recalls at the last limit, except the first, which is always at 100.
            stats = [evaluator.eval["recall"][:, 0, 0, 2].mean()] if limit == 1000 else []
            evaluator.summarize()
        expected = [*(stats or evaluator.stats[8:9]), *evaluator.stats[9:12]]
        recalls = [values[f"proposals/AR{size}{limit}"] for size in ("", "s", "m", "l")]
        assert recalls == pytest.approx(expected, abs=1e-12)
        assert 0 < recalls[0] < 1
    assert values["proposals/AR100"] < values["proposals/AR1000"]
