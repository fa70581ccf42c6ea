"""The opacity of a mask and its outline. Shapes: h w pixels of a mask."""

import numpy as np
import numpy.typing as npt

MASK_OPACITY = 105  # of 255

Opacity = npt.NDArray[np.uint8]
"""(h, w), from 0, transparent, to 255."""


def mask_opacity(bitmap: npt.NDArray[np.generic], line: int) -> Opacity:
    """Return the opacity of a translucent mask with an opaque outline inside its border.

    Args:
        bitmap: (h, w) 0/1 mask.
        line: width of the outline, pixels.
    """
    inside = bitmap.astype(bool)
    opacity = np.where(inside, np.uint8(255), np.uint8(0))
    opacity[erode(inside, line)] = MASK_OPACITY
    return opacity


def erode(inside: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of a mask (h, w) whose square of ``2 * radius + 1`` pixels is inside it.

    What is beyond the border of the array counts as outside.
    """
    eroded = np.pad(inside, radius)
    for axis in (0, 1):
        eroded = np.moveaxis(eroded, axis, 0)
        length = 1
        while length < 2 * radius + 1:
            # Each pass joins runs of `length` pixels to longer ones: few passes for wide outlines.
            step = min(length, 2 * radius + 1 - length)
            eroded = eroded[:-step] & eroded[step:]
            length += step
        eroded = np.moveaxis(eroded, 0, axis)
    return eroded


def trim(
    bitmap: npt.NDArray[np.generic],
) -> tuple[npt.NDArray[np.generic], tuple[int, int]] | None:
    """Return the part of a bitmap that holds all of its mask, and the part's x, y in the bitmap.

    None if the mask is empty.
    """
    rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return bitmap[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1], (left, top)
