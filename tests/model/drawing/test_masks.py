"""Erosion, and the part of a bitmap that holds its mask."""

import numpy as np
import pytest

from model.drawing.masks import erode, trim


@pytest.mark.parametrize("radius", [1, 2, 3, 7])
def test_erosion_keeps_the_pixels_whose_neighbors_are_all_inside(radius):
    inside = np.random.default_rng(radius).random((40, 30)) < 0.97
    padded = np.pad(inside, radius)
    side = 2 * radius + 1
    expected = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).all(axis=(2, 3))
    assert (erode(inside, radius) == expected).all()
    assert expected.any() == (radius < 7)


def test_trimming_keeps_the_whole_mask():
    bitmap = np.zeros((20, 30), np.uint8)
    bitmap[4, 7] = bitmap[9, 12] = 1
    part, (x, y) = trim(bitmap)
    assert (x, y, part.shape, part.sum()) == (7, 4, (6, 6), 2)
    assert trim(np.zeros((3, 3), np.uint8)) is None
