"""A proposal network alone is measured by its recall, whatever the classes are."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model import build_detector, save_detector
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.coco_metrics import PROPOSAL_NUMBERS, proposal_metrics
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.predictions import validate
from pipeline.evaluate.registration import register_evaluated
from pipeline.infer.prediction_rows import read_predictions
from pipeline.shards.manifest import read_manifest

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def scene(*objects):
    """Ground truth of one image: objects of (category id, box x y w h)."""
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


def test_recall_is_the_share_of_objects_found_averaged_over_overlaps():
    truth = scene((7, SMALL), (3, LARGE))
    # IoU 0.8: found at .5, .55 ... .8, seven of ten thresholds; the other object is missed.
    values = proposal_metrics(truth, [proposal([150, 150, 200, 160], 0.9)]).values
    assert values["proposals/AR100"] == pytest.approx(0.35)
    assert values["proposals/ARl1000"] == pytest.approx(0.7)
    assert values["proposals/ARs100"] == 0.0
    assert values["proposals/ARm100"] == -1.0  # there is none
    assert list(values) == [f"proposals/{number}" for number in PROPOSAL_NUMBERS]


def test_one_proposal_finds_one_object_and_the_hundred_and_first_counts_only_among_a_thousand():
    truth = scene((7, SMALL), (3, SMALL), (3, MEDIUM))
    strays = [proposal([300, 300, 5 + n % 7, 5], 0.9) for n in range(99)]
    found = [proposal(SMALL, 0.8), proposal(MEDIUM, 0.5)]
    values = proposal_metrics(truth, [*found, *strays]).values
    # Two objects share a place, and one proposal is of one of them.
    assert values["proposals/AR100"] == pytest.approx(1 / 3)
    assert values["proposals/ARm100"] == 0.0
    assert values["proposals/AR1000"] == pytest.approx(2 / 3)
    assert values["proposals/ARm1000"] == 1.0
    assert values["proposals/ARs1000"] == 0.5


def test_nothing_proposed_finds_nothing_and_without_objects_nothing_is_measured():
    assert proposal_metrics(scene((7, SMALL)), []).values["proposals/AR1000"] == 0.0
    assert set(proposal_metrics(scene(), [proposal(SMALL, 1.0)]).values.values()) == {-1.0}


def test_an_image_of_another_data_set_is_named():
    with pytest.raises(ValueError, match=r"image_id.*99"):
        proposal_metrics(scene(), [proposal(SMALL, 1.0) | {"image_id": 99}])


def random_case(seed):
    rng = np.random.default_rng(seed)
    truth, results = scene(), []
    truth["images"] = [{"id": n, "height": 400, "width": 400} for n in range(4)]
    for image in range(4):
        for _ in range(12):
            box = [*rng.uniform(0, 200, 2).tolist(), *rng.uniform(8, 180, 2).tolist()]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
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
    return truth, results


@pytest.mark.parametrize("seed", range(2))
def test_the_numbers_are_those_of_pycocotools_without_categories(seed):
    truth, results = random_case(seed)
    values = proposal_metrics(truth, results).values
    for limit in (100, 1000):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = truth
            coco.createIndex()
            judged = COCOeval(
                coco, coco.loadRes([result | {"category_id": 7} for result in results]), "bbox"
            )
            judged.params.useCats = 0
            judged.params.maxDets = [1, 10, limit]
            judged.evaluate()
            judged.accumulate()
            # Its summary reads recalls at the last limit, but for the first, which is at 100 only.
            stats = [judged.eval["recall"][:, 0, 0, 2].mean()] if limit == 1000 else []
            judged.summarize()
        expected = [*(stats or judged.stats[8:9]), *judged.stats[9:12]]
        got = [values[f"proposals/AR{size}{limit}"] for size in ("", "s", "m", "l")]
        assert got == pytest.approx(expected, abs=1e-12)
        assert 0 < got[0] < 1
    assert values["proposals/AR100"] < values["proposals/AR1000"]


@pytest.fixture
def proposals_config(run_config, tiny_model_config, shapes_shards):
    # Untrained, it finds something only if it may propose much.
    rpn = tiny_model_config.rpn.model_copy(
        update={"pre_nms_test": 1000, "post_nms_test": 400, "nms_iou": 0.9}
    )
    track = run_config.track.model_copy(update={"champion_metric": "proposals/AR1000"})
    return run_config.model_copy(
        update={
            "model": tiny_model_config.model_copy(update={"rpn": rpn, "box": None, "mask": None}),
            "data": DataConfig(val_shards=shapes_shards),
            "evaluate": EvaluateConfig(batch=4, pictures=1),
            "track": track,
        }
    )


def test_a_proposal_network_is_evaluated_and_registered_by_its_recall(
    proposals_config, shapes_shards, tmp_path
):
    torch.manual_seed(0)
    detector = build_detector(proposals_config.model, read_manifest(shapes_shards).categories)
    save_detector(detector, tmp_path / "checkpoint")
    result = run_evaluation(proposals_config, weights=str(tmp_path / "checkpoint"))
    assert set(result.metrics) == {f"proposals/{number}" for number in PROPOSAL_NUMBERS}
    assert result.metrics["proposals/AR1000"] > 0
    assert result.per_class == ()
    in_training = validate(detector, shapes_shards, 0, 1, batch=4)
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)
    page = Path(result.report_url).read_text()
    assert "| Proposals |" in page
    assert "## Classes" not in page
    run = MlflowClient(proposals_config.track.uri).get_run(result.run_id)
    assert run.data.metrics["proposals/AR100"] == result.metrics["proposals/AR100"]
    assert register_evaluated(proposals_config).promoted

    files = sorted(Path(result.report_url).parent.glob("predictions/*.parquet"))
    rows = [row for file in files for row in read_predictions(str(file))]
    assert len(rows) == 11
    for row in rows:
        assert row.category_ids is row.category_names is None
        assert set(row.labels) == {1}
        assert len(row.scores) == len(row.boxes) > 100
