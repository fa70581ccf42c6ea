"""Decode COCO run-length strings to run ends, in vectorized NumPy.

Format (pycocotools): alternating runs of 0 and 1, starting with 0, in column-major order. From the
fourth on, a run is stored as the difference from the run two before it. Each number is split into
groups of five bits, least significant first; the sixth bit (32) of a group says that another one
follows, and the fifth bit (16) of the last group is the sign. Adding 48 makes every group a
printable character.
"""

import numpy as np
from numpy.typing import NDArray

from model.images.decode import DecodeError
from model.structures import ImageSize

_MAX_GROUPS = 12  # 60 bits hold any run


def run_ends(counts: str, size: ImageSize) -> NDArray[np.int64]:
    """Decode a run-length string to the position at which each run ends.

    Args:
        counts: N runs in COCO's encoding.
        size: size of the image.

    Returns:
        (N,) int64, ascending pixel positions in column-major order; the last is the pixel count.

    Raises:
        DecodeError: the string is damaged or does not cover an image of this size.
    """
    groups = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero(groups & 32 == 0)
    lengths = np.diff(lasts, prepend=-1)
    if not len(lasts) or lasts[-1] != len(groups) - 1 or lengths.max() > _MAX_GROUPS:
        raise DecodeError("run-length mask is truncated or is not in COCO's format")
    firsts = lasts + 1 - lengths
    position = np.arange(len(groups)) - np.repeat(firsts, lengths)
    numbers = np.add.reduceat((groups & 31) << 5 * position, firsts)
    numbers -= (groups[lasts] >> 4 & 1) << 5 * lengths
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    ends: NDArray[np.int64] = np.cumsum(runs)
    pixels = size.height * size.width
    # Longer runs could overflow to the right sum.
    if runs.min() < 0 or runs.max() > pixels or ends[-1] != pixels:
        raise DecodeError(
            f"run-length mask does not cover its image of {size.width}x{size.height} exactly"
        )
    return ends
