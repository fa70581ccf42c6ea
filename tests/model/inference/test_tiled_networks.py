"""Tiled inference with networks of all kinds: a tile is predicted as an image of its own."""

import numpy as np
import pytest
import torch

from model import Predictor, load_detector, save_detector
from model.config import TilesConfig
from model.inference.tile_layout import tile_windows
from model.structures import ImageSize
from tests.model.inference.detector_kinds import ONE_SIZE_FLIPPED

# A threshold of 1 joins nothing, so the detections of all tiles remain.
APART = TilesConfig(size=64, overlap=0.25, whole_image=True, join="nms", threshold=1.0)


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [(kind, None) for kind in ("fpn", "c5", "retinanet", "legacy", "rpn")]
    + [("fpn", ONE_SIZE_FLIPPED)],
)
def test_detections_of_tiles_are_those_of_cut_out_images_moved(make_predictor, kind, augmentation):
    image = np.random.default_rng(4).integers(0, 256, (96, 150, 3), dtype=np.uint8)
    plain = make_predictor(kind, augmentation)
    found = Predictor(plain.detector, tiles=APART).predict(image, batch_size=1)
    windows = tile_windows(ImageSize(96, 150), 64, 0.25)
    parts = [plain.predict(image), *(plain.predict(image[t:b, x:r]) for x, t, r, b in windows)]
    corners = [(0, 0), *(window[:2] for window in windows)]
    rows = []
    for part, (x, y) in zip(parts, corners, strict=True):
        canvas = np.zeros((len(part), 96, 150), np.uint8)
        if part.masks is not None:
            height, width = part.image_size
            canvas[:, y : y + height, x : x + width] = part.bitmaps().numpy()
        boxes = part.boxes + torch.tensor([x, y, x, y])
        points = None if part.keypoints is None else part.keypoints + torch.tensor([x, y, 0])
        rows += [
            (
                float(part.scores[n]),
                boxes[n].tolist(),
                int(part.labels[n]),
                canvas[n],
                None if points is None else points[n],
            )
            for n in range(len(part))
        ]
    rows.sort(key=lambda row: -row[0])
    assert len(found) == len(rows) > 0
    assert found.scores.tolist() == [row[0] for row in rows]
    assert found.boxes.tolist() == [row[1] for row in rows]
    assert found.labels.tolist() == [row[2] for row in rows]
    if found.masks is not None:
        assert np.array_equal(found.bitmaps().numpy(), np.stack([row[3] for row in rows]))
    if found.keypoints is not None:
        assert found.keypoints.equal(torch.stack([row[4] for row in rows]))


def test_tiles_are_a_setting_of_the_config_and_an_argument(make_predictor, tmp_path, noise):
    predictor = make_predictor("fpn", tiles={"size": 48})
    assert predictor.tiles.size == 48
    save_detector(predictor.detector, tmp_path)
    assert load_detector(tmp_path).tiles == predictor.tiles
    other = load_detector(tmp_path, tiles=TilesConfig(size=40))
    assert other.tiles.size == 40
    assert load_detector(tmp_path, tiles=TilesConfig(size=1000)).predict(noise).masks.ndim == 4 - 1
