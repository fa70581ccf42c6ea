"""Bins of images of similar aspect ratio, so that a padded batch wastes little.

Row groups are written, and batches planned, within one bin. Loads no torch: reading tasks use it.

Shapes: N images.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ASPECT_EDGES = (0.72, 1.0, 1.42, 1.6)
"""Width over height at which a bin begins; between the common 2:3, 3:4, 4:3, 3:2 and 16:9."""

BIN_COUNT = len(ASPECT_EDGES) + 1


def aspect_bins(sizes: ArrayLike) -> NDArray[np.int64]:
    """Return the bin of each image, (N,), 0 (tall) to ``BIN_COUNT - 1`` (wide).

    Args:
        sizes: (N, 2) height and width, pixels.
    """
    height, width = np.asarray(sizes, dtype=np.int64).reshape(-1, 2).T
    return np.searchsorted(ASPECT_EDGES, width / height, side="right")
