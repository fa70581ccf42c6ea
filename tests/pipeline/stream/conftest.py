"""Shards of drawn images, with and without keypoints, and configs that train on them."""

import json

import pytest
from PIL import Image

from model.config import InputConfig, KeypointHeadConfig, ModelConfig
from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows


def draw_shards(folder, keypoints):
    """Write 22 drawn images to shards of 8 rows in row groups of 3; return their URL."""
    annotations, images = draw_shapes_dataset(
        folder / "drawn", 22, 48, 3, seed=1, keypoints=keypoints
    )
    write_shards(read_coco(str(annotations), str(images)), str(folder / "shards"), 8, 3)
    return str(folder / "shards")


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return draw_shards(tmp_path_factory.mktemp("stream"), keypoints=False)


@pytest.fixture(scope="session")
def keypoint_shards(tmp_path_factory):
    return draw_shards(tmp_path_factory.mktemp("keypoint_stream"), keypoints=True)


@pytest.fixture(scope="session")
def shards_of_many_shapes(tmp_path_factory):
    """Shards of 24 drawn images of six aspect ratios."""
    folder = tmp_path_factory.mktemp("many_shapes")
    annotations, images = draw_shapes_dataset(folder / "drawn", 24, 48, 3, seed=1)
    document = json.loads(annotations.read_text())
    for index, record in enumerate(document["images"]):
        size = ((48, 48), (64, 48), (72, 48), (96, 48), (48, 64), (48, 80))[index % 6]
        wide = Image.new("RGB", size, (90, 90, 90))
        wide.paste(Image.open(images / record["file_name"]), (0, 0))
        wide.save(images / record["file_name"], quality=92)
        record["width"], record["height"] = size
    annotations.write_text(json.dumps(document))
    write_shards(read_coco(str(annotations), str(images)), str(folder / "shards"), 24, 4)
    return str(folder / "shards")


@pytest.fixture(scope="session")
def keypoint_rows(keypoint_shards):
    """All rows of `keypoint_shards`."""
    files = read_manifest(keypoint_shards).files
    return [row for file in files for row in read_rows(keypoint_shards, file.name)]


@pytest.fixture(scope="session")
def config():
    """A config that trains on `shards`."""
    return RunConfig(
        seed=3,
        model=ModelConfig(num_classes=5, input=InputConfig(short_side=48, long_side=64)),
        data=DataConfig(train_short_sides=(32, 48)),
        train=TrainConfig(global_batch=4),
    )


@pytest.fixture(scope="session")
def keypoint_config():
    """A config that trains on `keypoint_shards`."""
    return RunConfig(
        seed=3,
        model=ModelConfig(
            num_classes=5,
            input=InputConfig(short_side=48, long_side=64),
            keypoint=KeypointHeadConfig(names=SHAPE_KEYPOINTS),
        ),
        data=DataConfig(train_short_sides=(48, 64)),
        train=TrainConfig(global_batch=4),
    )
