"""Drawn objects are where they are said to be, in the colour of their class."""

import itertools

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
