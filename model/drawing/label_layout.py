"""Where labels go: near their boxes, inside the image, and never one on another.

Shapes: C candidate corners, L placed labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

_SLIDES = (0.0, 0.25, 0.5, 0.75, 1.0)  # along the edges of the box
_MAX_RINGS = 6  # label heights from the box


@dataclass
class LabelLayout:
    """Places labels one after the other on an image.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
    """

    width: int
    height: int
    _placed: list[tuple[float, float, float, float]] = field(default_factory=list)

    def place(self, box: Sequence[float], size: tuple[float, float]) -> tuple[float, float] | None:
        """Return the upper left corner of a label, and keep its area for it.

        The first free position in the order of preference: above the box, in its upper corner,
        below it, along its edges, and at last around it.

        Args:
            box: x1 y1 x2 y2 of the object, pixels.
            size: width and height of the label, pixels.

        Returns:
            x, y; None if the label is larger than the image, or everything near the box is taken.
        """
        label_width, label_height = size
        if label_width > self.width or label_height > self.height:
            return None
        corners = _candidates(box, size)
        corners = corners.clip(0, (self.width - label_width, self.height - label_height))
        free = np.flatnonzero(self._is_free(corners, size))
        if not len(free):
            return None
        x, y = corners[free[0]].tolist()
        self._placed.append((x, y, x + label_width, y + label_height))
        return x, y

    def _is_free(self, corners: Points, size: tuple[float, float]) -> npt.NDArray[np.bool_]:
        """Return for each of C corners, (C, 2), whether a label there covers no other one."""
        if not self._placed:
            return np.ones(len(corners), bool)
        placed = np.array(self._placed)  # (L, 4)
        ends = corners + size
        overlaps = (corners[:, None] < placed[:, 2:]) & (ends[:, None] > placed[:, :2])
        is_covered: npt.NDArray[np.bool_] = np.any(np.all(overlaps, axis=2), axis=1)
        return ~is_covered


def _candidates(box: Sequence[float], size: tuple[float, float]) -> Points:
    """Return corners (C, 2) of a label, best first; some may be outside the image."""
    x1, y1, x2, y2 = box
    width, height = size
    right = x2 - width
    rows = (y1 - height, y1, y2, y2 - height)  # above, upper edge, below, lower edge
    corners = [(x1 + slide * (right - x1), y) for slide in _SLIDES for y in rows]
    for ring in range(1, _MAX_RINGS + 1):
        offset = ring * height
        columns = np.linspace(x1 - offset, max(x1, right) + offset, 9).tolist()
        lines = np.linspace(y1 - offset - height, y2 + offset, 9).tolist()
        corners += [(x, y) for y in (lines[0], lines[-1]) for x in columns]
        corners += [(x, y) for x in (columns[0] - width, columns[-1] + width) for y in lines]
    return np.array(corners, dtype=np.float64)
