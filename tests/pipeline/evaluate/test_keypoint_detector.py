"""A real Keypoint R-CNN learns from shards, is evaluated by the job, and its files hold points."""

import pytest
import torch

from model import build_detector, save_detector
from model.config import KeypointHeadConfig
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.coco_metrics import KEYPOINT_NUMBERS, NUMBERS
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.predictions import validate
from pipeline.infer.prediction_rows import read_predictions
from pipeline.ingest.shape_keypoints import SHAPE_KEYPOINTS
from pipeline.shards.manifest import read_manifest
from pipeline.stream.training_stream import open_local_stream


@pytest.fixture
def keypoint_config(run_config, tiny_model_config, shards):
    """The tiny detector with keypoints in place of masks."""
    head = KeypointHeadConfig(names=SHAPE_KEYPOINTS, channels=16, layers=1)
    model = tiny_model_config.model_copy(update={"mask": None, "keypoint": head})
    return run_config.model_copy(
        update={
            "model": model,
            "data": DataConfig(train_shards=shards, val_shards=shards),
            "train": run_config.train.model_copy(update={"global_batch": 4}),
            "evaluate": EvaluateConfig(batch=2, pictures=1),
        }
    )


@pytest.fixture
def detector(keypoint_config, shards):
    torch.manual_seed(0)
    return build_detector(keypoint_config.model, read_manifest(shards).categories)


def test_keypoints_are_learned_from_what_the_stream_gives(keypoint_config, shards, detector):
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    with open_local_stream(keypoint_config, shards, 0, 1, 0, 1) as stream:
        batch = next(stream)
    labelled = sum(int(target.keypoints[..., 2].count_nonzero()) for target in batch.targets)
    losses = []
    for _ in range(15):
        term = detector.train()(batch.images, batch.targets)["keypoint"]
        # The objects' own boxes are proposals too, and all their points lie inside or on them.
        assert int(term.count) >= labelled
        loss = term.total / term.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # One batch again and again; guessing among 56 x 56 places costs 8.05.
    assert losses[0] > 7.5
    assert losses[-1] < 7.0, losses


def test_the_evaluation_job_measures_keypoints_and_keeps_them(
    keypoint_config, shards, detector, tmp_path
):
    save_detector(detector, tmp_path / "checkpoint")
    result = run_evaluation(keypoint_config, weights=str(tmp_path / "checkpoint"))
    assert set(result.metrics) == {f"bbox/{n}" for n in NUMBERS} | {
        f"keypoints/{n}" for n in KEYPOINT_NUMBERS
    }
    in_training = validate(detector, shards, 0, 1, batch=2)
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)
    folder = tmp_path / "output" / "evaluation"
    assert "| Keypoints |" in (folder / "report.md").read_text()
    assert len(result.pictures) == 1
    rows = [
        row for path in folder.glob("predictions/*.parquet") for row in read_predictions(str(path))
    ]
    assert len(rows) == 8
    for row in rows:
        assert row.keypoint_names == list(SHAPE_KEYPOINTS)
        points = torch.tensor(row.keypoints)
        assert points.shape == (len(row.scores), 4, 3)
        boxes = torch.tensor(row.boxes)
        # A point is found inside its box; of a box thinner than a pixel, within that pixel.
        assert (points[..., :2] >= boxes[:, None, :2] - 1e-3).all()
        assert (points[..., :2] <= boxes[:, None, 2:].clamp(min=0) + 1 + 1e-3).all()
