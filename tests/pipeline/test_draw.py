"""Sheets hold their images complete and in order."""

import numpy as np

from pipeline.draw import encode_png, side_by_side, tile_images


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
