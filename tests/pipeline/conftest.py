"""A tracker, a detector and shards for the rooms that need them; each made once per session."""

import json
import os

import pytest

from model import Category, ModelConfig, build_detector, save_detector
from model.config import (
    BackboneConfig,
    BoxHeadConfig,
    FpnConfig,
    InputConfig,
    MaskHeadConfig,
    RpnConfig,
)
from pipeline.config import RunConfig, TrackConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes import SHAPE_CLASSES
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards

# Ids that are not the labels 1..K, so that a mix-up shows.
SHAPES = tuple(Category(10 * n, name) for n, name in enumerate(SHAPE_CLASSES, start=1))


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
    """The smallest useful Mask R-CNN: five classes, 64 px."""
    return ModelConfig(
        num_classes=len(SHAPES),
        input=InputConfig(short_side=64, long_side=96),
        backbone=BackboneConfig(depth=18, norm="batch_norm", frozen_stages=0, width=8),
        fpn=FpnConfig(channels=16),
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
    """A folder with a saved, untrained detector; its categories have the ids 10, 20, ...."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_detector(build_detector(tiny_model_config, SHAPES), folder)
    return folder


@pytest.fixture(scope="session")
def shapes_images(tmp_path_factory):
    """Eleven drawn pictures of 64 px; gives the annotations and the folder of images."""
    folder = tmp_path_factory.mktemp("shapes")
    annotations, images = draw_shapes_dataset(folder, images=11, side=64, max_objects=3, seed=1)
    document = json.loads(annotations.read_text())
    for record in document["categories"]:
        record["id"] *= 10
    for record in document["annotations"]:
        record["category_id"] *= 10
    annotations.write_text(json.dumps(document))
    return annotations, images


@pytest.fixture(scope="session")
def shapes_shards(shapes_images, tmp_path_factory):
    """The drawn pictures as three shards of 4, 4 and 3 rows; gives their URL."""
    annotations, images = shapes_images
    folder = str(tmp_path_factory.mktemp("shards"))
    manifest = write_shards(read_coco(str(annotations), str(images)), folder, 4, 4)
    if [file.rows for file in manifest.files] != [4, 4, 3]:
        pytest.fail(f"unexpected shards: {manifest.files}")
    return folder
