"""The pixels of one object as a COCO run-length mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.structures import ImageSize


def mask_annotation(
    pixels: NDArray[np.bool_], left: int, top: int, size: ImageSize
) -> dict[str, Any]:
    """``segmentation``, ``area`` and ``bbox`` (x y w h) of an object's pixels.

    Args:
        pixels: (h, w) bool, some of them true: the part of the image that holds the object.
        left: column of the image that the part begins at.
        top: row of the image that the part begins at.
        size: of the image.
    """
    columns, rows = np.nonzero(pixels.T)
    # Positions down the columns of the whole image, ascending.
    positions = (columns + left) * size.height + rows + top
    breaks = np.flatnonzero(np.diff(positions) > 1)
    begins = positions[np.r_[0, breaks + 1]]
    ends = positions[np.r_[breaks, -1]] + 1
    edges = np.stack([begins, ends], 1).ravel()
    counts = np.diff(np.r_[0, edges, size.height * size.width])
    x, y = int(columns.min()), int(rows.min())
    return {
        "segmentation": {"size": list(size), "counts": counts.tolist()},
        "area": float(len(positions)),
        "bbox": [left + x, top + y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
    }
