"""Tiled inference: every object of a large image once, with the mask it has in the whole image.

A `ColorReader` detects what it sees exactly, so that only the tiles and their joining are tested.
"""

import weakref
from collections import Counter

import numpy as np
import pytest
import torch

from model import ModelConfig, Predictor
from model.config import TilesConfig
from model.inference.input_image import InputImage
from model.inference.tile_layout import tile_windows
from model.inference.tiles import detect_in_tiles
from model.structures import Category, ImageSize
from tests.model.inference.color_reader import CLASSES, CONVENTIONS, ColorReader, Scene

TILE = 96
HEIGHT, WIDTH = 500, 690  # no multiples of a tile
TILES = TilesConfig(size=TILE, overlap=0.25, whole_image=False)


def make_predictor(tiles, side=TILE, long_side=TILE, **attributes):
    """Return a predictor whose detector sees every pixel of images with these sides."""
    config = ModelConfig(
        num_classes=CLASSES,
        backbone={"depth": 18, "width": 8},
        conventions=CONVENTIONS,
        input={"short_side": side, "long_side": long_side},
    )
    categories = [Category(n + 1, str(n + 1)) for n in range(CLASSES)]
    detector = ColorReader(config, categories)
    for name, value in attributes.items():
        setattr(detector, name, value)
    return Predictor(detector, tiles=tiles)


@pytest.fixture(scope="module")
def scene():
    """An image with 300 objects: some at borders and in corners, two larger than a tile."""
    scene = Scene(HEIGHT, WIDTH)
    assert scene.add("star", 260, (60, 150), 0.3)
    assert scene.add("cross", 230, (430, 230), 0.5)
    for x, y in [(-10, -10), (WIDTH - 15, -8), (-7, HEIGHT - 12), (WIDTH - 20, HEIGHT - 20)]:
        assert scene.add("square", 30, (x, y))
    windows = tile_windows(ImageSize(HEIGHT, WIDTH), TILE, 0.25)
    for window in windows[1:30:4]:  # exactly at the corner of a tile
        scene.add("circle", 24, (window.left - 12, window.top - 12))
    scene.fill(300, (7, 40), np.random.default_rng(5))
    return scene


def objects(detections):
    """Count detections by class, mask and box."""
    return Counter(
        (label, mask["counts"], tuple(box))
        for label, mask, box in zip(
            detections.labels.tolist(), detections.rle(), detections.boxes.tolist(), strict=True
        )
    )


@pytest.fixture(scope="module")
def whole(scene):
    """The detections of the whole image at once."""
    return make_predictor(None, HEIGHT, WIDTH).predict(scene.pixels)


def random_score(label, mask):
    """Return a score that differs between the parts of an object, in no order."""
    return (1 + int(mask.sum()) * 7919 % 97 + label) / 200


@pytest.mark.parametrize("score_of", [lambda label, mask: 1.0, random_score], ids=["equal", "any"])
@pytest.mark.parametrize("overlap", [0.05, 0.25, 0.5])
def test_every_object_is_there_once_with_the_mask_of_the_whole_image(
    scene, whole, score_of, overlap
):
    tiles = TilesConfig(size=TILE, overlap=overlap, whole_image=False)
    found = make_predictor(tiles, score_of=score_of).predict(scene.pixels, batch_size=8)
    expected = objects(whole)
    assert sum(expected.values()) == len(expected) == len(scene.labels) == 300
    assert objects(found) == expected
    assert (found.scores.diff() <= 0).all()
    assert found.image_size == (HEIGHT, WIDTH)


def test_the_scene_has_objects_that_no_tile_shows_whole_and_objects_at_borders(whole):
    windows = tile_windows(ImageSize(HEIGHT, WIDTH), TILE, 0.05)
    boxes = whole.boxes
    shown = [
        any(x1 >= w.left and y1 >= w.top and x2 <= w.right and y2 <= w.bottom for w in windows)
        for x1, y1, x2, y2 in boxes.tolist()
    ]
    assert 30 < shown.count(False) < 150
    at_border = (boxes[:, :2] == 0) | (boxes[:, 2:] == torch.tensor([WIDTH, HEIGHT]))
    assert at_border.any(1).sum() >= 20


def test_bitmaps_crops_and_run_lengths_of_joined_masks_agree(scene):
    found = make_predictor(TILES).predict(scene.pixels)
    colors = scene.pixels.astype(np.int64) @ [1 << 16, 256, 1]
    bitmaps = found.bitmaps().numpy()
    assert bitmaps.sum() == (colors > 0).sum()
    for bitmap in bitmaps:
        assert len(np.unique(colors[bitmap == 1])) == 1
    above = found[torch.arange(7)]
    assert above.rle() == found.rle()[:7]
    assert len(above.bitmap_crops()) == 7


def test_objects_without_masks_are_joined_by_their_boxes():
    scene = Scene(300, 400)
    for y in range(0, 290, 30):
        for x in range(0, 390, 30):
            scene.add("square", 24 + (x + y) % 5, (x, y), np.pi / 4)  # upright
    assert len(scene.labels) > 120
    found = make_predictor(TILES, with_masks=False).predict(scene.pixels)
    assert found.masks is None
    expected = make_predictor(None, 300, 400, with_masks=False).predict(scene.pixels)
    boxes = [sorted(each.boxes.tolist()) for each in (found, expected)]
    assert len(boxes[1]) == len(scene.labels)
    assert boxes[0] == boxes[1]


def test_tiles_without_objects_add_nothing():
    scene = Scene(HEIGHT, WIDTH)
    predictor = make_predictor(TILES)
    nothing = predictor.predict(scene.pixels)
    assert (len(nothing), nothing.boxes.shape) == (0, (0, 4))
    assert nothing.bitmaps().shape == (0, HEIGHT, WIDTH)
    assert nothing.rle() == []
    assert scene.add("star", 20, (600, 400))
    assert objects(predictor.predict(scene.pixels)) == objects(
        make_predictor(None, HEIGHT, WIDTH).predict(scene.pixels)
    )


def test_an_image_that_fits_into_a_tile_is_predicted_as_without_tiles():
    scenes = [Scene(TILE, TILE), Scene(HEIGHT, TILE), Scene(TILE, TILE)]
    for number, scene in enumerate(scenes):
        scene.fill(6 + number, (10, 30), np.random.default_rng(number))
    sizes = []
    predictor = make_predictor(TILES)
    forward = predictor.detector.forward
    predictor.detector.forward = lambda batch: sizes.append(batch.sizes) or forward(batch)
    found = predictor.predict([scene.pixels for scene in scenes], batch_size=4)
    assert [len(each) for each in found] == [6, 7, 8]
    # The small images share a batch; the tiles of the large one have batches of their own.
    assert [len(each) for each in sizes] == [2, 4, 3]


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_the_whole_image_shows_what_no_tile_shows_whole(overlap):
    scene = Scene(384, 384)
    assert scene.add("cross", 300, (20, 30))
    assert scene.add("circle", 20, (340, 350))
    reader, sizes = make_predictor(None).detector, []

    def predict(parts):
        sizes.append([part.size for part in parts])
        return [reader.detect_colors(part.pixels()) for part in parts]

    image = InputImage(ImageSize(384, 384), lambda: torch.from_numpy(scene.pixels))
    [expected] = predict([image])
    for whole_image in (True, False):
        sizes.clear()
        tiles = TilesConfig(size=TILE, overlap=overlap, whole_image=whole_image)
        found = detect_in_tiles(predict, image, tiles, batch_size=4)
        assert ([(384, 384)] in sizes) == whole_image
        if whole_image or overlap:
            assert objects(found) == objects(expected)
        else:  # tiles that share nothing cannot tell which parts belong together
            assert len(found) > 10
            assert int(found.masks.areas().sum()) == int(expected.masks.areas().sum())


def test_nms_keeps_the_parts_of_an_object_and_one_of_the_whole_ones():
    scene = Scene(TILE, 168)  # tiles from 0 and from 72
    assert scene.add("square", 18, (74, 10), np.pi / 4)  # whole in both tiles
    assert scene.add("square", 60, (55, 34), np.pi / 4)  # in no tile
    [whole, parts, merged] = (
        make_predictor(tiles, TILE, side).predict(scene.pixels)
        for tiles, side in [
            (None, 168),
            (TILES.model_copy(update={"join": "nms"}), TILE),
            (TILES, TILE),
        ]
    )
    spans = sorted((x1, x2) for x1, _, x2, _ in whole.boxes.tolist())
    [(large_start, large_end), small] = spans
    assert sorted((x1, x2) for x1, _, x2, _ in parts.boxes.tolist()) == sorted(
        [(large_start, 96.0), (72.0, large_end), small]
    )
    assert objects(merged) == objects(whole)


def test_memory_does_not_grow_with_the_number_of_tiles(scene):
    predictor = make_predictor(TILES)
    alive, most, calls = Counter(), Counter(), []
    forward = predictor.detector.forward

    def watch(kind, tensor):
        alive[kind] += 1
        weakref.finalize(tensor, alive.subtract, [kind])

    def count(batch):
        watch("batches", batch.pixels)
        for kind in alive:
            most[kind] = max(most[kind], alive[kind])
        calls.append(len(batch))
        found = forward(batch)
        for each in found:
            watch("results of the network", each.masks.columns)
        return found

    predictor.detector.forward = count
    found = predictor.predict(scene.pixels, batch_size=4)
    assert sum(calls) == len(tile_windows(ImageSize(HEIGHT, WIDTH), TILE, 0.25)) > 60
    assert max(calls) == 4
    assert most["batches"] == 1
    assert 1 <= most["results of the network"] <= 4
    runs = found.masks
    kept = sum(each.nbytes for each in (runs.columns, runs.tops, runs.bottoms, runs.offsets))
    assert kept < len(found) * HEIGHT * WIDTH / 100


def test_a_proposal_network_has_nothing_to_merge(tiny_config):
    settings = {"box": None, "mask": None}
    with pytest.raises(ValueError, match=r"set tiles.join = nms"):
        tiny_config(**settings, tiles={})
    assert tiny_config(**settings, tiles={"join": "nms"}).tiles.join == "nms"
