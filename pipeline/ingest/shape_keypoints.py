"""Keypoints of the drawn shapes: the outermost points of each, hidden where another lies on them.

Letters: N shapes, V vertices.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHAPE_KEYPOINTS = ("top", "left_side", "right_side", "bottom")
SHAPE_SKELETON = ((0, 1), (0, 2), (3, 1), (3, 2))
"""Around the shape, as indices into the names."""

HIDDEN, VISIBLE = 1, 2


def outermost_points(
    outlines: Sequence[NDArray[np.float64]], covers: Sequence[NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """The keypoints of the shapes of one picture.

    Args:
        outlines: (V, 2) x y of each shape, the lowest first.
        covers: (side, side) pixels of each shape.

    Returns:
        (N, 4, 3): x, y in pixels and visibility.
    """
    points = np.zeros((len(outlines), len(SHAPE_KEYPOINTS), 3))
    for n, outline in enumerate(outlines):
        x, y = outline.T
        corners = outline[[y.argmin(), x.argmin(), x.argmax(), y.argmax()]]
        column, row = np.minimum(corners, len(covers[n]) - 1).astype(int).T
        hidden = np.zeros(len(corners), dtype=bool)
        for above in covers[n + 1 :]:
            hidden |= above[row, column]
        points[n, :, :2] = corners
        points[n, :, 2] = np.where(hidden, HIDDEN, VISIBLE)
    return points
