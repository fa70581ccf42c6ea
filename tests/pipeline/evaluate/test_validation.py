"""Validation in training: results have the dataset's ids, and any number of ranks agrees."""

import json
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from model import Predictor
from model.weights import load_network
from pipeline.evaluate import validation
from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.validation import measure, predict_rows, predict_shards, rows_of_rank
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.shard_file import read_row_group
from tests.pipeline.oracle import oracle, read_all_rows
from tests.two_ranks import run_two_ranks


def test_perfect_boxes_have_an_ap_of_one(shapes_shards):
    predictions = predict_rows(oracle(shapes_shards), read_all_rows(shapes_shards), batch=3)
    assert {result["category_id"] for result in predictions.results} <= {10, 20, 30, 40, 50}
    metrics = coco_metrics(coco_ground_truth(shapes_shards), predictions.results, ["bbox"])
    assert metrics.values["bbox/AP"] == pytest.approx(1.0)


def test_perfect_keypoints_have_an_ap_of_one_and_shifted_ones_less(shapes_keypoint_shards):
    shards, rows = shapes_keypoint_shards, read_all_rows(shapes_keypoint_shards)
    gt = coco_ground_truth(shards)
    perfect = predict_rows(oracle(shards), rows, batch=3).results
    assert coco_metrics(gt, perfect, ["keypoints"]).values["keypoints/AP"] == pytest.approx(1.0)
    shifted = predict_rows(oracle(shards, keypoint_shift=4.0), rows, batch=3).results
    assert coco_metrics(gt, shifted, ["keypoints"]).values["keypoints/AP"] < 0.9


def test_keypoint_results_have_the_coordinates_of_the_annotation_file(shapes_keypoint_shards):
    """Predicted keypoints equal the annotated ones to 1e-5 px: no half pixel is lost."""
    annotated = {
        (a["image_id"], *a["bbox"][:2]): a["keypoints"]
        for a in coco_ground_truth(shapes_keypoint_shards)["annotations"]
    }
    rows = read_all_rows(shapes_keypoint_shards)
    results = predict_rows(oracle(shapes_keypoint_shards), rows, batch=3).results
    assert len(results) == len(annotated)
    for result in results:
        key = min(
            (k for k in annotated if k[0] == result["image_id"]),
            key=lambda k: abs(k[1] - result["bbox"][0]) + abs(k[2] - result["bbox"][1]),
        )
        predicted = np.array(result["keypoints"]).reshape(-1, 3)
        expected = np.reshape(annotated[key], (-1, 3))
        # float32 coordinates below 64 px
        np.testing.assert_allclose(predicted[:, :2], expected[:, :2], atol=1e-5)
        assert (predicted[:, 2] == 1).all()


def test_an_unreadable_image_has_no_results_and_is_reported(shapes_shards, tiny_checkpoint):
    rows = read_all_rows(shapes_shards)[:4]
    rows[1] = replace(rows[1], image_bytes=rows[1].image_bytes[:200])
    predictions = predict_rows(Predictor(load_network(tiny_checkpoint)), rows, batch=2)
    assert predictions.images == 4
    [failure] = predictions.failures
    assert failure.startswith(rows[1].file_name)
    predicted = {result["image_id"] for result in predictions.results}
    assert predicted == {rows[n].image_id for n in (0, 2, 3)}


@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
def test_ranks_share_all_rows_evenly(shapes_shards, world_size):
    shares = [
        [row.image_id for row in rows_of_rank(shapes_shards, rank, world_size)]
        for rank in range(world_size)
    ]
    assert sorted(chain.from_iterable(shares)) == list(range(1, 12))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
def test_ranks_read_few_row_groups_twice(shapes_shards, monkeypatch, world_size):
    reads = []

    def read(url, file, group):
        reads.append((file, group))
        return read_row_group(url, file, group)

    monkeypatch.setattr(validation, "read_row_group", read)
    for rank in range(world_size):
        before = len(reads)
        rows = list(rows_of_rank(shapes_shards, rank, world_size))
        assert len(reads) - before <= len(rows)
    # 3 row groups; each border between two ranks may be inside one.
    assert len(reads) <= 3 + world_size - 1
    assert len(set(reads)) == 3


def validate_as_one_of_two(rank, folder, checkpoint, shards_url):
    predictions = predict_shards(load_network(checkpoint), shards_url, rank, 2, batch=1)
    metrics = None if predictions is None else measure(predictions)
    returned = None if metrics is None else [metrics.images, metrics.values]
    (folder / f"{rank}.json").write_text(json.dumps(returned))


def test_two_ranks_measure_what_one_measures(shapes_shards, tiny_checkpoint, tmp_path):
    detector = load_network(tiny_checkpoint).train()
    alone = measure(predict_shards(detector, shapes_shards, 0, 1, batch=1))
    assert detector.training
    assert alone.images == 11
    run_two_ranks(validate_as_one_of_two, tmp_path, tiny_checkpoint, shapes_shards)
    assert json.loads((tmp_path / "0.json").read_text()) == [11, alone.values]
    assert json.loads((tmp_path / "1.json").read_text()) is None
