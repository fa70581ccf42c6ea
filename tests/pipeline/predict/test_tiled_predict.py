"""The command line in tiles: the documented command, and settings of a config."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import load_detector
from model.config import TilesConfig
from model.images.decode import decode_image
from pipeline.config.predict import PredictConfig
from pipeline.predict.detector import load_drawing_detector

PAGE = Path(__file__).resolve().parents[3] / "docs" / "LARGE_IMAGES.md"


@pytest.fixture
def command():
    """The arguments of the documented command after the model."""
    [line] = re.findall(r"^maskrcnn-ray predict \S+ (.*)$", PAGE.read_text(), re.MULTILINE)
    return shlex.split(line)


def test_the_documented_command_detects_in_tiles(
    predict_job, photo, command, tiny_checkpoint, tmp_path
):
    path = photo(command[0], size=(900, 660))
    status, _, _ = predict_job(*command, "--json", "--crops")
    assert status == 0
    records = json.loads((tmp_path / "drawn" / "coco_results.json").read_text())
    size = int(command[command.index("--tiles") + 1])
    tiled = load_detector(tiny_checkpoint, tiles=TilesConfig(size=size), score_threshold=0.0)
    found = tiled.predict(decode_image(path.read_bytes()))
    assert len(records) == len(found) > 0
    assert [record["segmentation"] for record in records] == found.rle()
    assert Image.open(tmp_path / "drawn" / command[0]).size == (900, 660)
    crops = sorted((tmp_path / "drawn" / "crops").rglob("*.png"), key=lambda each: each.name)
    assert len(crops) == len(found)
    corners = zip(found.boxes[:, :2].floor().int().tolist(), found.bitmaps(), strict=True)
    for crop, ((left, top), bitmap) in zip(crops, corners, strict=True):
        opacity = np.asarray(Image.open(crop))[..., 3]
        height, width = opacity.shape
        inside = bitmap[top : top + height, left : left + width].numpy()
        assert np.array_equal(opacity, 255 * inside)


def test_the_size_replaces_that_of_a_config_and_nothing_else(tiny_checkpoint, tmp_path):
    config = tmp_path / "tiles.yaml"
    config.write_text("model:\n  tiles: {size: 64, overlap: 0.5, join: nms}\n")

    def tiles(**settings):
        stated = PredictConfig(model=str(tiny_checkpoint), inputs=("a.png",), **settings)
        return load_drawing_detector(stated).predictor.tiles

    assert tiles() is None
    assert tiles(tiles=32) == TilesConfig(size=32)
    assert tiles(config=str(config)) == TilesConfig(size=64, overlap=0.5, join="nms")
    both = tiles(config=str(config), tiles=32)
    assert both == TilesConfig(size=32, overlap=0.5, join="nms")
