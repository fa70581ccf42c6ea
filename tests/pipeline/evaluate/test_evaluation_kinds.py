"""The evaluation job measures each kind of detector and dataset with its own metrics."""

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from model import build_detector, save_detector
from model.weights import load_network
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.metrics import COCO_METRICS, KEYPOINT_METRICS, PROPOSAL_METRICS
from pipeline.evaluate.registration import register_evaluated
from pipeline.evaluate.validation import measure, predict_shards
from pipeline.infer.detection_files import read_detection_rows
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.shards.manifest import read_manifest


def read_predictions(result):
    """Return the rows of all prediction files of an evaluation."""
    files = sorted(Path(result.report_url).parent.glob("predictions/*.parquet"))
    return [row for file in files for row in read_detection_rows(str(file))]


def test_a_keypoint_detector_is_measured_and_its_keypoints_are_kept(
    tiny_keypoint_config, shapes_keypoint_shards, tiny_keypoint_detector, tmp_path
):
    save_detector(tiny_keypoint_detector, tmp_path / "checkpoint")
    result = run_evaluation(tiny_keypoint_config, weights=str(tmp_path / "checkpoint"))
    assert set(result.metrics) == {f"bbox/{metric}" for metric in COCO_METRICS} | {
        f"keypoints/{metric}" for metric in KEYPOINT_METRICS
    }
    in_training = measure(
        predict_shards(tiny_keypoint_detector, shapes_keypoint_shards, 0, 1, batch=2)
    )
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)
    assert "| Keypoints |" in Path(result.report_url).read_text()
    assert len(result.pictures) == 1
    rows = read_predictions(result)
    assert len(rows) == 8
    for row in rows:
        assert row.keypoint_names == list(SHAPE_KEYPOINTS)
        keypoints = torch.tensor(row.keypoints)
        assert keypoints.shape == (len(row.scores), 4, 3)
        boxes = torch.tensor(row.boxes)
        # Keypoints lie inside their box; in a box thinner than a pixel, within that pixel.
        assert (keypoints[..., :2] >= boxes[:, None, :2] - 1e-3).all()
        assert (keypoints[..., :2] <= boxes[:, None, 2:].clamp(min=0) + 1 + 1e-3).all()


@pytest.fixture
def proposals_config(run_config, tiny_model_config, shapes_shards):
    """A config of a proposal network; untrained, it covers objects only with many proposals."""
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


def test_a_proposal_network_is_measured_and_registered_by_its_recall(
    proposals_config, shapes_shards, tmp_path
):
    torch.manual_seed(0)
    detector = build_detector(proposals_config.model, read_manifest(shapes_shards).categories)
    save_detector(detector, tmp_path / "checkpoint")
    result = run_evaluation(proposals_config, weights=str(tmp_path / "checkpoint"))
    assert set(result.metrics) == {f"proposals/{metric}" for metric in PROPOSAL_METRICS}
    assert result.metrics["proposals/AR1000"] > 0
    assert result.per_class == ()
    in_training = measure(predict_shards(detector, shapes_shards, 0, 1, batch=4))
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)
    page = Path(result.report_url).read_text()
    assert "| Proposals |" in page
    assert "## Classes" not in page
    run = MlflowClient(proposals_config.track.uri).get_run(result.run_id)
    assert run.data.metrics["proposals/AR100"] == result.metrics["proposals/AR100"]
    assert register_evaluated(proposals_config).promoted

    rows = read_predictions(result)
    assert len(rows) == 11
    for row in rows:
        assert row.category_ids is row.category_names is None
        assert set(row.labels) == {1}
        assert len(row.scores) == len(row.boxes) > 100


def test_on_voc_the_report_and_the_validation_in_training_have_vocs_metric(
    voc_config, tiny_model_config
):
    """The detector has a mask head, but the dataset has boxes only: masks are not measurable."""
    shards = f"{voc_config.output}/shards/val"
    checkpoint = Path(voc_config.output) / "train" / "step_00000010"
    model = tiny_model_config.model_copy(update={"num_classes": 20})
    save_detector(build_detector(model, read_manifest(shards).categories), checkpoint)
    result = run_evaluation(voc_config.model_copy(update={"model": model}))
    assert result.metrics["voc/AP50"] >= 0
    assert result.metrics["segm/AP"] == -1
    in_training = measure(predict_shards(load_network(checkpoint), shards, 0, 1, batch=2))
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)
    page = Path(result.report_url).read_text()
    assert "Pascal VOC mean AP of boxes at IoU 0.5: " in page
    assert "| Masks AP50 | VOC AP50 |" in page
