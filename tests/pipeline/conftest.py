"""A tracker and a detector for the rooms that need one; each made once per session."""

import os

import pytest

from model.config import (
    BackboneConfig,
    BoxHeadConfig,
    InputConfig,
    MaskHeadConfig,
    ModelConfig,
    RpnConfig,
)
from model.structures import Category
from pipeline.config import RunConfig, TrackConfig

SHAPES = tuple(Category(10 * n, name) for n, name in enumerate(("disc", "box", "star"), start=1))


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory):
    """An SQLite MLflow of this session; creating one takes seconds, so tests share it."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def run_config(mlflow_uri, tmp_path, tiny_model_config):
    """A RunConfig on its own output folder and model name, recorded in the session's MLflow."""
    return RunConfig(
        name="tiny",
        output=str(tmp_path / "output"),
        model=tiny_model_config,
        track=TrackConfig(uri=mlflow_uri, model_name=f"model-{tmp_path.name}"),
    )


@pytest.fixture(scope="session")
def tiny_model_config():
    """The smallest useful Mask R-CNN: three classes, 64 px."""
    return ModelConfig(
        num_classes=3,
        input=InputConfig(short_side=64, long_side=96),
        backbone=BackboneConfig(
            depth=18, norm="batch_norm", frozen_stages=0, width=8, fpn_channels=16
        ),
        rpn=RpnConfig(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
            pre_nms_test=50,
            post_nms_test=20,
        ),
        box=BoxHeadConfig(hidden=32, score_threshold=0.0, detections_per_image=5),
        mask=MaskHeadConfig(channels=16, layers=1),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_model_config):
    """A folder with a saved, untrained detector; its categories have the ids 10, 20, 30."""
    from model import build_detector, save_detector

    folder = tmp_path_factory.mktemp("checkpoint")
    save_detector(build_detector(tiny_model_config, SHAPES), folder)
    return folder
