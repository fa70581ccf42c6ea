"""Drawn objects are where they are said to be, in the colour of their class."""

import itertools
from dataclasses import replace

import numpy as np
import torch

from model import Detections
from model.structures import ImageSize
from pipeline.draw import (
    DrawnObject,
    colour,
    draw_detections,
    draw_objects,
    encode_png,
    found_keypoints,
    side_by_side,
)

GREY = np.full((500, 600, 3), 128, np.uint8)


def changed(before, after):
    return (before != after).any(axis=2)


def test_a_box_changes_its_outline_and_a_mask_its_inside():
    bitmap = np.zeros((500, 600), np.uint8)
    bitmap[200:250, 300:360] = 1
    drawn = draw_objects(GREY, [DrawnObject((100.0, 150.0, 400.0, 450.0), "", 3, bitmap)])
    touched = changed(GREY, drawn)
    assert touched[bitmap == 1].all()
    assert (drawn[150, 120:380] == colour(3)).all()
    assert (drawn[170:440, 100] == colour(3)).all()
    assert not touched[260:440, 110:390].any()
    assert not touched[:100].any()
    assert (GREY == 128).all()


def test_keypoints_are_dots_and_links_join_those_that_are_there():
    points = np.array([[100.0, 100, 2], [300, 100, 1], [300, 300, 0], [100, 300, 2]])
    skeleton = ((0, 1), (1, 2), (0, 3))
    boxed = DrawnObject((20.0, 20.0, 30.0, 30.0), "", 3)
    bare = draw_objects(GREY, [boxed])
    drawn = draw_objects(GREY, [replace(boxed, keypoints=points, skeleton=skeleton)])
    assert (drawn[100, 100] == colour(3)).all() and (drawn[300, 100] == colour(3)).all()
    assert (drawn[100, 300] == 255).all()  # hidden
    assert (drawn[100, 110:290] == colour(3)).all() and (drawn[110:290, 100] == colour(3)).all()
    touched = changed(bare, drawn)
    assert not touched[110:, 110:].any()
    assert touched[97:104, 97:104].sum() > 30


def test_keypoints_that_a_detector_is_unsure_of_are_not_drawn():
    points = torch.tensor([[[100.0, 100.0, 8.0], [300.0, 100.0, 1.0]]])
    box, label, score = torch.tensor([[20.0, 20.0, 30.0, 30.0]]), torch.tensor([2]), torch.ones(1)
    found = Detections(box, score, label, None, ImageSize(500, 600), keypoints=points)
    drawn = draw_detections(GREY, found, ["cat", "dog"], skeleton=((0, 1),))
    without = draw_detections(GREY, replace(found, keypoints=None), ["cat", "dog"])
    touched = changed(drawn, without)
    assert touched[97:104, 97:104].any()
    assert not touched[:, 110:].any()
    assert found_keypoints(points[0].tolist()).tolist() == [[100, 100, 2], [300, 100, 0]]


def test_a_small_picture_is_enlarged_with_its_objects():
    small = np.zeros((60, 80, 3), np.uint8)
    bitmap = np.zeros((60, 80), np.uint8)
    bitmap[10, 20] = 1
    drawn = draw_objects(small, [DrawnObject((40.0, 30.0, 60.0, 50.0), "", 1, bitmap)])
    assert drawn.shape == (480, 640, 3)
    assert changed(np.zeros_like(drawn), drawn)[80:88, 160:168].all()
    assert (drawn[240, 330:470] == colour(1)).all()


def test_captions_stay_on_the_picture():
    corners = [(0.0, 0.0, 20.0, 20.0), (560.0, 480.0, 600.0, 500.0), (-9.0, -9.0, 700.0, 700.0)]
    for box in corners:
        drawn = draw_objects(GREY, [DrawnObject(box, "a long caption 0.99", 2)])
        bare = draw_objects(GREY, [DrawnObject(box, "", 2)])
        assert drawn.shape == GREY.shape
        assert changed(drawn, bare).sum() > 300


def test_detections_below_the_score_are_not_drawn_and_faster_rcnn_has_no_masks():
    detections = Detections(
        boxes=torch.tensor([[50.0, 50.0, 150.0, 150.0], [300.0, 300.0, 400.0, 400.0]]),
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([1, 2]),
        masks=torch.ones(2, 4, 4),
        image_size=ImageSize(500, 600),
    )
    drawn = changed(GREY, draw_detections(GREY, detections, ["cat", "dog"], least_score=0.5))
    assert drawn[60:140, 60:140].all()
    assert not drawn[280:, 280:].any()
    boxes_only = Detections(
        detections.boxes, detections.scores, detections.labels, None, detections.image_size
    )
    bare = changed(GREY, draw_detections(GREY, boxes_only, ["cat", "dog"]))
    assert bare[300, 310:390].all()
    assert not bare[320:380, 320:380].any()


def test_neighbouring_classes_differ_in_colour():
    for first, second in itertools.combinations(range(1, 9), 2):
        distance = np.abs(np.subtract(colour(first), colour(second))).max()
        assert distance > 25, (first, second)


def test_pictures_side_by_side_are_whole():
    red, blue = np.zeros((40, 50, 3), np.uint8), np.zeros((60, 30, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = side_by_side([red, blue], ["left", "right"])
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 40 * 50
    assert (sheet == (0, 0, 255)).all(axis=2).sum() == 60 * 30
    assert encode_png(sheet).startswith(b"\x89PNG")
