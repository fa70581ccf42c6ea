"""COCO's run-length strings as the runs that the model takes, in vectorised numpy.

Format: runs of 0 and 1 in turn, beginning with 0, down the columns; each run after the third is
stored as its difference to the one before last; each number in groups of five bits, least
significant first, the sixth bit saying that more follow, the fifth of the last group being the
sign; plus 48 to be printable (pycocotools).
"""

import numpy as np
from numpy.typing import NDArray

from model.structures import ImageSize
from pipeline.shards.decode import DecodeError

_LONGEST = 12
"""Groups: 60 bits hold any run."""


def run_ends(counts: str, size: ImageSize) -> NDArray[np.int64]:
    """Where each run ends, counted from the start of the canvas.

    Args:
        counts: K runs, encoded.
        size: of the canvas.

    Returns:
        (K,) int64, ascending, the last being the number of pixels.

    Raises:
        DecodeError: the string is damaged or of another canvas.
    """
    groups = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(groups & 32 == 0)
    lengths = np.diff(last, prepend=-1)
    if not len(last) or last[-1] != len(groups) - 1 or lengths.max() > _LONGEST:
        raise DecodeError("a run-length mask is cut off")
    firsts = last + 1 - lengths
    position = np.arange(len(groups)) - np.repeat(firsts, lengths)
    numbers = np.add.reduceat((groups & 31) << 5 * position, firsts)
    numbers -= (groups[last] >> 4 & 1) << 5 * lengths
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    ends: NDArray[np.int64] = np.cumsum(runs)
    if runs.min() < 0 or ends[-1] != size.height * size.width:
        raise DecodeError(f"a run-length mask does not fill its image of {tuple(size)}")
    return ends
