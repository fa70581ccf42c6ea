"""Jobs take published weights by a word."""

import numpy as np
import pytest
import torch
from PIL import Image

from model import build_detector
from model.weights import load_weights
from model.weights.coco_categories import coco_categories
from pipeline.chain.start_checks import check_start
from pipeline.config import RunConfig
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.inference import run_inference
from pipeline.track.weights_source import resolve_weights
from pipeline.train.start_weights import adopt_conventions
from pipeline.train.training_state import new_training_state
from workflows import predict

BACKBONE = {"backbone": {"depth": 18}, "num_classes": 2, "fpn": {"channels": 16}}
COCO_NAMES = {category.name for category in coco_categories()}
DETECTOR = {"mask": None, "num_classes": 3}


def test_a_training_starts_with_a_published_backbone(publisher, weights_files):
    config = RunConfig.model_validate({"model": BACKBONE, "train": {"weights": "imagenet"}})
    check_start(config, {"train"})
    config, adopted = adopt_conventions(config)
    assert adopted == {}
    state = new_training_state(config, (), torch.device("cpu"))
    stored = torch.load(weights_files["imagenet"])
    assert torch.equal(state.detector.backbone.conv1.weight.detach(), stored["conv1.weight"])
    assert state.loaded.source == "imagenet"
    assert publisher.requests == [f"/{publisher.files['imagenet']}"]


def test_a_training_of_other_classes_starts_with_a_published_detector(publisher):
    config = RunConfig.model_validate({"model": DETECTOR, "train": {"weights": "coco"}})
    config, adopted = adopt_conventions(config)
    assert adopted["roi_aligned"] is False  # torchvision's
    detector = build_detector(config.model)
    with resolve_weights("coco", config) as path:
        report = load_weights(detector, path)
    assert "roi_heads.box.class_logits.weight" in report.mismatched_keys
    assert "fpn.output.0.weight" in report.loaded
    assert publisher.requests == [f"/{publisher.files['coco']}"]


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_predict_takes_a_published_detector(publisher, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("model: {mask: null}")
    arguments = ["coco", str(photo), "--config", "c.yaml", "--short-side", "64"]
    assert predict.main([*arguments, "--min-score", "0"]) == 0
    assert "images      1" in capsys.readouterr().out
    assert (tmp_path / "predictions" / "photo.png").exists()
    assert publisher.requests == [f"/{publisher.files['coco']}"]


def test_batch_inference_takes_a_published_detector(publisher, photo, tmp_path):
    settings = {"inputs": str(photo.parent), "model": "coco", "score_threshold": 0.0}
    config = RunConfig.model_validate(
        {
            "output": str(tmp_path / "run"),
            "model": {"mask": None, "input": {"short_side": 64}},
            "infer": settings,
        }
    )
    result = run_inference(config)
    assert (result.images, result.failed, result.model) == (1, 0, "coco")
    [row] = read_detection_rows(str(next((tmp_path / "run" / "predictions").glob("*.parquet"))))
    assert row.file_name == "photo.png"
    assert set(row.category_names) <= COCO_NAMES
    assert publisher.requests == [f"/{publisher.files['coco']}"]


def test_predict_without_a_network_ends_with_one_line(
    no_caches, photo, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert predict.main(["coco", str(photo)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "put it into" in error
    assert "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth" in error
