"""Objects are drawn at their positions, in the color of their class."""

import itertools
from dataclasses import replace

import numpy as np
import torch

from model import Detections
from model.structures import ImageSize
from pipeline.draw import (
    DrawnObject,
    color_of,
    draw_detections,
    draw_objects,
    encode_png,
    side_by_side,
    tile_images,
    visible_keypoints,
)

GRAY = np.full((500, 600, 3), 128, np.uint8)


def changed_pixels(before, after):
    return (before != after).any(axis=2)


def test_a_box_is_drawn_as_an_outline_and_a_mask_as_an_area():
    bitmap = np.zeros((500, 600), np.uint8)
    bitmap[200:250, 300:360] = 1
    drawn = draw_objects(GRAY, [DrawnObject((100.0, 150.0, 400.0, 450.0), "", 3, bitmap)])
    changed = changed_pixels(GRAY, drawn)
    assert changed[bitmap == 1].all()
    assert (drawn[150, 120:380] == color_of(3)).all()
    assert (drawn[170:440, 100] == color_of(3)).all()
    assert not changed[260:440, 110:390].any()
    assert not changed[:100].any()
    assert (GRAY == 128).all()


def test_keypoints_are_dots_and_links_join_the_labeled_ones():
    keypoints = np.array([[100.0, 100, 2], [300, 100, 1], [300, 300, 0], [100, 300, 2]])
    skeleton = ((0, 1), (1, 2), (0, 3))
    box_only = DrawnObject((20.0, 20.0, 30.0, 30.0), "", 3)
    without = draw_objects(GRAY, [box_only])
    drawn = draw_objects(GRAY, [replace(box_only, keypoints=keypoints, skeleton=skeleton)])
    assert (drawn[100, 100] == color_of(3)).all() and (drawn[300, 100] == color_of(3)).all()
    assert (drawn[100, 300] == 255).all()  # occluded
    assert (drawn[100, 110:290] == color_of(3)).all() and (drawn[110:290, 100] == color_of(3)).all()
    changed = changed_pixels(without, drawn)
    assert not changed[110:, 110:].any()
    assert changed[97:104, 97:104].sum() > 30


def test_keypoints_with_a_low_score_are_not_drawn():
    keypoints = torch.tensor([[[100.0, 100.0, 8.0], [300.0, 100.0, 1.0]]])
    box, label, score = torch.tensor([[20.0, 20.0, 30.0, 30.0]]), torch.tensor([2]), torch.ones(1)
    detections = Detections(box, score, label, None, ImageSize(500, 600), keypoints=keypoints)
    drawn = draw_detections(GRAY, detections, ["cat", "dog"], skeleton=((0, 1),))
    without = draw_detections(GRAY, replace(detections, keypoints=None), ["cat", "dog"])
    changed = changed_pixels(drawn, without)
    assert changed[97:104, 97:104].any()
    assert not changed[:, 110:].any()
    assert visible_keypoints(keypoints[0].tolist()).tolist() == [[100, 100, 2], [300, 100, 0]]


def test_a_small_image_is_enlarged_with_its_objects():
    small = np.zeros((60, 80, 3), np.uint8)
    bitmap = np.zeros((60, 80), np.uint8)
    bitmap[10, 20] = 1
    drawn = draw_objects(small, [DrawnObject((40.0, 30.0, 60.0, 50.0), "", 1, bitmap)])
    assert drawn.shape == (480, 640, 3)
    assert changed_pixels(np.zeros_like(drawn), drawn)[80:88, 160:168].all()
    assert (drawn[240, 330:470] == color_of(1)).all()


def test_captions_stay_within_the_image():
    corners = [(0.0, 0.0, 20.0, 20.0), (560.0, 480.0, 600.0, 500.0), (-9.0, -9.0, 700.0, 700.0)]
    for box in corners:
        drawn = draw_objects(GRAY, [DrawnObject(box, "a long caption 0.99", 2)])
        without = draw_objects(GRAY, [DrawnObject(box, "", 2)])
        assert drawn.shape == GRAY.shape
        assert changed_pixels(drawn, without).sum() > 300


def test_detections_below_the_threshold_are_not_drawn_and_masks_are_optional():
    detections = Detections(
        boxes=torch.tensor([[50.0, 50.0, 150.0, 150.0], [300.0, 300.0, 400.0, 400.0]]),
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([1, 2]),
        masks=torch.ones(2, 4, 4),
        image_size=ImageSize(500, 600),
    )
    drawn = draw_detections(GRAY, detections, ["cat", "dog"], score_threshold=0.5)
    changed = changed_pixels(GRAY, drawn)
    assert changed[60:140, 60:140].all()
    assert not changed[280:, 280:].any()
    boxes_only = Detections(
        detections.boxes, detections.scores, detections.labels, None, detections.image_size
    )
    changed = changed_pixels(GRAY, draw_detections(GRAY, boxes_only, ["cat", "dog"]))
    assert changed[300, 310:390].all()
    assert not changed[320:380, 320:380].any()


def test_neighboring_classes_differ_in_color():
    for first, second in itertools.combinations(range(1, 9), 2):
        distance = np.abs(np.subtract(color_of(first), color_of(second))).max()
        assert distance > 25, (first, second)


def test_images_side_by_side_are_complete():
    red, blue = np.zeros((40, 50, 3), np.uint8), np.zeros((60, 30, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = side_by_side([red, blue], ["left", "right"])
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 40 * 50
    assert (sheet == (0, 0, 255)).all(axis=2).sum() == 60 * 30
    assert encode_png(sheet).startswith(b"\x89PNG")


def test_tiled_images_are_complete_and_in_order():
    """Five images of different sizes in rows of three."""
    images = [np.full((20 + 7 * n, 60 - 5 * n, 3), 40 * n + 20, np.uint8) for n in range(5)]
    sheet = tile_images(images, [""] * 5, 3)
    corners = []
    for n, image in enumerate(images):
        same = (sheet == 40 * n + 20).all(axis=2)
        assert same.sum() == image.shape[0] * image.shape[1]
        corners.append(np.argwhere(same).min(axis=0).tolist())
    (top, *_), (bottom, *_) = corners[0], corners[3]
    assert [y for y, _ in corners] == [top] * 3 + [bottom] * 2
    assert bottom >= top + 34
    assert [x for _, x in corners[3:]] == [x for _, x in corners[:2]]
    assert corners[1][1] > 60 and corners[2][1] >= corners[1][1] + 55
    only = tile_images(images[:1], ["a title"], 3)
    assert only.shape[1] == 60
