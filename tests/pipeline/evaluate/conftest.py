"""Shards of shapes with keypoints, for whoever measures them."""

import pytest

from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keypoints")
    drawn = draw_shapes_dataset(folder / "drawn", 8, 64, 3, seed=1, keypoints=True)
    write_shards(read_coco(*map(str, drawn)), str(folder / "shards"), 4, 4)
    return str(folder / "shards")
