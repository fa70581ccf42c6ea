"""Objects are drawn at their positions, in the color of their class."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import Detections
from model.drawing import (
    DrawnObject,
    color_of,
    detected_objects,
    draw_objects,
    visible_keypoints,
)
from model.structures import ImageSize

GRAY = np.full((500, 600, 3), 128, np.uint8)


NAMES = ["cat", "dog"]


def drawn_detections(detections, skeleton=()):
    return draw_objects(GRAY, detected_objects(detections, NAMES, skeleton))


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
    drawn = drawn_detections(detections, skeleton=((0, 1),))
    without = drawn_detections(replace(detections, keypoints=None))
    changed = changed_pixels(drawn, without)
    assert changed[97:104, 97:104].any()
    assert not changed[:, 110:].any()
    assert visible_keypoints(keypoints[0].tolist()).tolist() == [[100, 100, 2], [300, 100, 0]]


def test_a_small_image_is_enlarged_with_its_objects():
    small = np.zeros((60, 80, 3), np.uint8)
    bitmap = np.zeros((60, 80), np.uint8)
    bitmap[10, 20] = 1
    drawn = draw_objects(small, [DrawnObject((40.0, 30.0, 60.0, 50.0), "", 1, bitmap)])
    assert drawn.shape == (360, 480, 3)
    assert changed_pixels(np.zeros_like(drawn), drawn)[60:66, 120:126].all()
    assert (drawn[180, 250:350] == color_of(1)).all()


def test_labels_stay_within_the_image():
    corners = [(0.0, 0.0, 20.0, 20.0), (560.0, 480.0, 600.0, 500.0), (-9.0, -9.0, 700.0, 700.0)]
    for box in corners:
        drawn = draw_objects(GRAY, [DrawnObject(box, "a long caption 0.99", 2)])
        without = draw_objects(GRAY, [DrawnObject(box, "", 2)])
        assert drawn.shape == GRAY.shape
        assert changed_pixels(drawn, without).sum() > 300


def test_a_name_longer_than_the_image_is_shortened():
    drawn = draw_objects(GRAY[:, :330], [DrawnObject((50.0, 90.0, 80.0, 120.0), "name " * 50, 2)])
    colored = (drawn == color_of(2)).all(axis=2)
    assert colored[60:90].sum(axis=1).max() > 150


def test_lines_and_text_grow_with_the_image():
    large = GRAY.repeat(8, axis=0).repeat(8, axis=1)
    heights = []
    for image in (GRAY, large):
        side = image.shape[0] // 5
        box = (side, side, 2 * side, 2 * side)
        labeled = draw_objects(image, [DrawnObject(box, "cat 0.99", 3)])
        plain = draw_objects(image, [DrawnObject(box, "", 3)])
        rows = changed_pixels(labeled, plain).any(axis=1).sum()
        line = (plain[:, side + side // 2] == color_of(3)).all(axis=1).sum() / 2
        heights.append((rows, line))
    (small_rows, small_line), (large_rows, large_line) = heights
    assert large_rows > 3 * small_rows
    assert large_line > 3 * small_line


def test_a_mask_has_an_opaque_outline_and_a_translucent_inside():
    bitmap = np.zeros((500, 600), np.uint8)
    bitmap[200:300, 300:400] = 1
    drawn = draw_objects(GRAY, [DrawnObject((5.0, 5.0, 9.0, 9.0), "", 3, bitmap)])
    opaque = (drawn == color_of(3)).all(axis=2)
    assert opaque[200:202, 300:400].all() and opaque[200:300, 398:400].all()
    assert not opaque[203:297, 303:397].any()
    assert changed_pixels(GRAY, drawn)[203:297, 303:397].all()
    assert not changed_pixels(GRAY, drawn)[300:].any()


def test_a_crop_of_a_mask_is_drawn_as_the_whole_bitmap_is():
    bitmap = np.zeros((500, 600), np.uint8)
    bitmap[200:250, 300:360] = 1
    whole = DrawnObject((5.0, 5.0, 9.0, 9.0), "", 3, bitmap)
    crop = replace(whole, bitmap=bitmap[190:260, 280:400], bitmap_corner=(280, 190))
    assert (draw_objects(GRAY, [whole]) == draw_objects(GRAY, [crop])).all()
    small = (GRAY[:100, :100], [replace(whole, bitmap=bitmap[170:270, 280:380])])
    part = replace(whole, bitmap=bitmap[190:260, 300:380], bitmap_corner=(20, 20))
    assert (draw_objects(*small) == draw_objects(small[0], [part])).all()


def test_an_empty_mask_draws_nothing():
    box_only = DrawnObject((20.0, 20.0, 30.0, 30.0), "", 3)
    empty = replace(box_only, bitmap=np.zeros((500, 600), np.uint8))
    assert (draw_objects(GRAY, [box_only]) == draw_objects(GRAY, [empty])).all()


@pytest.mark.parametrize("text", ["Straße", "человек", "日本語", "", "a\nb", "\U0001f600"])
def test_any_text_can_be_a_label(text):
    assert draw_objects(GRAY, [DrawnObject((20.0, 90.0, 30.0, 99.0), text, 3)]).shape == GRAY.shape


def test_masks_of_detections_are_optional_and_the_highest_score_is_on_top():
    detections = Detections(
        boxes=torch.tensor([[50.0, 50.0, 150.0, 150.0], [300.0, 300.0, 400.0, 400.0]]),
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([1, 2]),
        masks=torch.ones(2, 4, 4),
        image_size=ImageSize(500, 600),
    )
    assert [each.caption for each in detected_objects(detections, NAMES)] == [
        "dog 0.20",
        "cat 0.90",
    ]
    drawn = drawn_detections(detections.above(0.5))
    changed = changed_pixels(GRAY, drawn)
    assert changed[60:140, 60:140].all()
    assert not changed[280:, 280:].any()
    boxes_only = Detections(
        detections.boxes, detections.scores, detections.labels, None, detections.image_size
    )
    changed = changed_pixels(GRAY, drawn_detections(boxes_only))
    assert changed[300, 310:390].all()
    assert not changed[320:380, 320:380].any()


def test_neighboring_classes_differ_in_color():
    for first, second in itertools.combinations(range(1, 9), 2):
        distance = np.abs(np.subtract(color_of(first), color_of(second))).max()
        assert distance > 25, (first, second)
