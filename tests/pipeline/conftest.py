"""A tracker, tiny detectors and shards, shared by the tests of several packages."""

import json
import os

import pytest
import torch

from model import Category, ModelConfig, build_detector, save_detector
from model.config import (
    BackboneConfig,
    BoxHeadConfig,
    FpnConfig,
    InputConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    RpnConfig,
)
from pipeline.config import DataConfig, EvaluateConfig, RunConfig, TrackConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes import SHAPE_CLASSES, SHAPE_KEYPOINTS
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import read_manifest

# Ids that differ from the labels 1..K, so that tests detect a mix-up.
SHAPES = tuple(Category(10 * n, name) for n, name in enumerate(SHAPE_CLASSES, start=1))


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory):
    """An SQLite MLflow store; creating one takes seconds, so all tests share it."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def run_config(mlflow_uri, tmp_path, tiny_model_config):
    """A config with its own output folder and model name, recorded in the shared MLflow store."""
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
    """A folder with an untrained detector, whose categories have the ids 10, 20, ..."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a test that depends on chance would fail now and then
        save_detector(build_detector(tiny_model_config, SHAPES), folder)
    return folder


@pytest.fixture(scope="session")
def shapes_images(tmp_path_factory):
    """Eleven drawn images of 64 px: the annotation file and the folder of images."""
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
    """The URL of the drawn images as three shards of 4, 4 and 3 rows."""
    annotations, images = shapes_images
    folder = str(tmp_path_factory.mktemp("shards"))
    manifest = write_shards(read_coco(str(annotations), str(images)), folder, 4, 4)
    if [file.rows for file in manifest.files] != [4, 4, 3]:
        pytest.fail(f"unexpected shards: {manifest.files}")
    return folder


@pytest.fixture(scope="session")
def shapes_keypoint_shards(tmp_path_factory):
    """The URL of eight drawn images with keypoints, as two shards of 4 rows."""
    folder = tmp_path_factory.mktemp("keypoints")
    annotations, images = draw_shapes_dataset(folder / "drawn", 8, 64, 3, seed=1, keypoints=True)
    write_shards(read_coco(str(annotations), str(images)), str(folder / "shards"), 4, 4)
    return str(folder / "shards")


@pytest.fixture
def tiny_keypoint_config(run_config, tiny_model_config, shapes_keypoint_shards):
    """A config of the tiny detector with keypoints instead of masks, on the keypoint shards."""
    head = KeypointHeadConfig(names=SHAPE_KEYPOINTS, channels=16, layers=1)
    return run_config.model_copy(
        update={
            "model": tiny_model_config.model_copy(update={"mask": None, "keypoint": head}),
            "data": DataConfig(
                train_shards=shapes_keypoint_shards, val_shards=shapes_keypoint_shards
            ),
            "train": run_config.train.model_copy(update={"global_batch": 4}),
            "evaluate": EvaluateConfig(batch=2, pictures=1),
        }
    )


@pytest.fixture
def tiny_keypoint_detector(tiny_keypoint_config, shapes_keypoint_shards):
    torch.manual_seed(0)
    categories = read_manifest(shapes_keypoint_shards).categories
    return build_detector(tiny_keypoint_config.model, categories)
