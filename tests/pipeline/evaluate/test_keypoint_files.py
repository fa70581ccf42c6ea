"""Keypoints from shards to predictions, prediction files, report and pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model import Detections, ModelConfig
from model.config import KeypointHeadConfig
from pipeline.evaluate.coco_metrics import KEYPOINT_NUMBERS, NUMBERS, coco_metrics
from pipeline.evaluate.pictures import draw_comparisons
from pipeline.evaluate.predictions import predict_rows
from pipeline.evaluate.report import EvaluationReport
from pipeline.infer.inputs import InputImage, plan_inputs
from pipeline.infer.ledger import output_url
from pipeline.infer.prediction_rows import coco_results, read_predictions, row_of, write_rows
from pipeline.infer.predictor import ImagePrediction
from pipeline.ingest.coco import coco_ground_truth
from pipeline.ingest.shape_keypoints import SHAPE_KEYPOINTS
from pipeline.shards.decode import decode_image
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows


def all_rows(shards):
    return [row for file in read_manifest(shards).files for row in read_rows(shards, file.name)]


def truth_of(row, shift=0.0):
    """What a detector that knows the row finds; the third number is a logit."""
    points = torch.from_numpy(row.keypoints).float()
    points[..., :2] += shift
    points[..., 2] = 5.0
    return Detections(
        boxes=torch.from_numpy(row.boxes).float(),
        scores=torch.ones(len(row.labels)),
        labels=torch.from_numpy(row.labels),
        masks=None,
        image_size=row.size,
        keypoints=points,
    )


def oracle(shards, shift=0.0):
    """Stands in for a trained detector: finds what the rows say, in their order."""
    following = iter(all_rows(shards))
    return SimpleNamespace(
        predict=lambda images, batch_size: [truth_of(next(following), shift) for _ in images],
        categories=read_manifest(shards).categories,
        config=ModelConfig(keypoint=KeypointHeadConfig(names=SHAPE_KEYPOINTS)),
    )


def test_who_finds_the_annotated_points_has_ap_one_and_who_misses_them_less(shards):
    truth = coco_ground_truth(shards)
    found = predict_rows(oracle(shards), all_rows(shards), batch=3).results
    assert coco_metrics(truth, found, ["keypoints"]).values["keypoints/AP"] == pytest.approx(1.0)
    moved = predict_rows(oracle(shards, shift=4.0), all_rows(shards), batch=3).results
    assert coco_metrics(truth, moved, ["keypoints"]).values["keypoints/AP"] < 0.9


def test_results_count_pixels_as_the_annotation_file_does(shards):
    """Found points are the annotated ones to the hundredth: no half pixel is lost on the way."""
    truth = {
        (a["image_id"], *a["bbox"][:2]): a["keypoints"]
        for a in coco_ground_truth(shards)["annotations"]
    }
    results = predict_rows(oracle(shards), all_rows(shards), batch=3).results
    assert len(results) == len(truth)
    for result in results:
        key = min(
            (k for k in truth if k[0] == result["image_id"]),
            key=lambda k: abs(k[1] - result["bbox"][0]) + abs(k[2] - result["bbox"][1]),
        )
        found = np.array(result["keypoints"]).reshape(-1, 3)
        # float32 of pixels below 64
        np.testing.assert_allclose(found[:, :2], np.reshape(truth[key], (-1, 3))[:, :2], atol=1e-5)
        assert (found[:, 2] == 1).all()


def test_the_report_has_a_table_for_each_set_of_numbers(shards):
    truth = coco_ground_truth(shards)
    found = predict_rows(oracle(shards), all_rows(shards), batch=3).results
    metrics = coco_metrics(truth, found, ["bbox", "keypoints"])
    page = EvaluationReport("x", "w", "m", "s", "d", metrics, (), ()).to_markdown()
    lines = page.splitlines()
    assert f"| | {' | '.join(NUMBERS)} |" in lines
    assert f"| | {' | '.join(KEYPOINT_NUMBERS)} |" in lines
    [row] = [line for line in lines if line.startswith("| Keypoints |")]
    assert row.count("|") == len(KEYPOINT_NUMBERS) + 2 and row.startswith("| Keypoints | 100.0 |")
    assert "| class | objects | Boxes AP | Boxes AP50 | Keypoints AP | Keypoints AP50 |" in lines
    assert any("sigma of 0.05" in line for line in lines)


def test_prediction_files_keep_the_points_their_names_and_the_coco_form(shards, tmp_path):
    detector = oracle(shards)
    rows = [
        row_of(
            ImagePrediction(InputImage(row.image_id, row.file_name, b""), truth_of(row)),
            detector,
            least_score=0.0,
        )
        for row in all_rows(shards)
    ]
    broken = ImagePrediction(InputImage(99, "broken.jpg", b""), None, "why")
    rows.append(row_of(broken, detector, 0.0))
    write_rows(str(tmp_path / "p.parquet"), rows)
    kept = read_predictions(str(tmp_path / "p.parquet"))
    assert kept == rows
    assert (kept[-1].keypoints, kept[-1].keypoint_names) == (None, None)
    assert kept[0].keypoint_names == list(SHAPE_KEYPOINTS)
    assert np.shape(kept[0].keypoints) == (len(kept[0].scores), 4, 3)
    assert set(np.array(kept[0].keypoints)[..., 2].ravel()) == {5.0}
    truth = coco_ground_truth(shards)
    results = [result for row in kept for result in coco_results(row)]
    assert coco_metrics(truth, results, ["keypoints"]).values["keypoints/AP"] == pytest.approx(1.0)


def test_comparisons_show_the_points_of_both(shards, tmp_path):
    """Ground truth on the left, prediction on the right: the same dots in the same places."""
    detector, manifest = oracle(shards), read_manifest(shards)
    pieces = plan_inputs(shards, images_per_piece=1)
    rows = iter(all_rows(shards))
    for piece in pieces:
        found = [
            row_of(
                ImagePrediction(InputImage(row.image_id, row.file_name, b""), truth_of(row)),
                detector,
                0.0,
            )
            for row in (next(rows) for _ in range(piece.images))
        ]
        write_rows(output_url(str(tmp_path), piece.name), found)
    [first] = draw_comparisons(pieces, manifest, str(tmp_path), str(tmp_path / "drawn"), 1)
    sheet = decode_image((tmp_path / "drawn" / first.rpartition("/")[2]).read_bytes())
    # 64 px are enlarged eightfold; 24 px of head, 8 px of gap.
    left, right = sheet[24:, :512], sheet[24:, 520:]
    for points in all_rows(shards)[0].keypoints:
        for x, y, _ in points:
            column, row = (min(511, round(8 * v)) for v in (x, y))
            patch = np.s_[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            rim = [(picture[patch] == 0).all(2).sum() for picture in (left, right)]
            assert min(rim) > 0
