"""Run-length encoding of masks, as COCO stores them, in vectorised numpy.

Format: runs of 0 and 1 in turn, beginning with 0, down the columns; each run after the third is
stored as its difference to the one before last; each number in groups of five bits, least
significant first, bit 6 marking that more follow, plus 48 to be printable (pycocotools).
"""

import numpy as np
import numpy.typing as npt

# 7 groups of 5 bits hold runs up to 2**34.
_SHIFTS = 5 * np.arange(7)


def encode_bitmap(
    bitmap: npt.NDArray[np.uint8], first_column: int = 0, last_column: int | None = None
) -> str:
    """The ``counts`` string of a bitmap.

    Args:
        bitmap: (H, W) of 0 and 1.
        first_column: all columns before this one are known to be empty.
        last_column: so are all from this one on.
    """
    height, width = bitmap.shape
    columns = bitmap[:, first_column:last_column].T.ravel()
    edges = np.flatnonzero(np.diff(columns, prepend=0, append=0))
    # An odd number of edges cannot be: the appended 0 closes the last run of 1.
    starts = edges + first_column * height
    total = height * width
    ends = starts if starts.size and starts[-1] == total else np.append(starts, total)
    return _to_text(np.diff(ends, prepend=0))


def _to_text(runs: npt.NDArray[np.int64]) -> str:
    numbers = runs.astype(np.int64)
    numbers[3:] -= runs[1:-2]
    groups = numbers[:, None] >> _SHIFTS  # arithmetic: keeps the sign
    codes = groups & 31
    rest = groups >> 5
    # The last group is the first whose sign bit says all about the rest.
    complete = np.where(codes & 16, rest == -1, rest == 0)
    last = complete.argmax(axis=1)[:, None]
    position = np.arange(len(_SHIFTS))
    codes += 48 + 32 * (position < last)
    text: bytes = codes[position <= last].astype(np.uint8).tobytes()
    return text.decode("ascii")
