"""Encode the pixels of one object as a COCO run-length mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.structures import ImageSize


def mask_annotation(
    pixels: NDArray[np.bool_], left: int, top: int, size: ImageSize
) -> dict[str, Any]:
    """Return ``segmentation`` (uncompressed RLE), ``area`` and ``bbox`` (x y w h) of an object.

    Args:
        pixels: (h, w) bool crop of the image that holds the object, at least one pixel True.
        left: image column at which the crop begins.
        top: image row at which the crop begins.
        size: size of the image.
    """
    columns, rows = np.nonzero(pixels.T)
    # Column-major positions in the image, ascending.
    positions = (columns + left) * size.height + rows + top
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts = positions[np.r_[0, breaks + 1]]
    ends = positions[np.r_[breaks, -1]] + 1
    edges = np.stack([starts, ends], 1).ravel()
    counts = np.diff(np.r_[0, edges, size.height * size.width])
    x, y = int(columns.min()), int(rows.min())
    return {
        "segmentation": {"size": list(size), "counts": counts.tolist()},
        "area": float(len(positions)),
        "bbox": [left + x, top + y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
    }
