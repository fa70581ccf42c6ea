"""The images that a ledger records, found again in a listing without holding their names.

Each image is held as 16 bytes, a digest of its name, its version and the id that the input gives
it: one that was replaced has another, like an image that was never seen. A million images take
50 MB.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.infer.listed_image import ListedImage

_DIGEST_BYTES = 16


class RecordedImages:
    """An index of images, each in one slot, in the order in which they were added."""

    def __init__(self) -> None:
        self._digests: list[NDArray[np.bytes_]] = []
        self._count = 0
        self._sorted: NDArray[np.bytes_] | None = None
        self._slots: NDArray[np.int64] = np.zeros(0, np.int64)
        self._listed: NDArray[np.bool_] = np.zeros(0, bool)

    def add(self, files: Sequence[ListedImage]) -> range:
        """Add the images of a chunk; return their slots. Not after `find`."""
        self._digests.append(_digests(files))
        self._count += len(files)
        return range(self._count - len(files), self._count)

    def find(self, files: Sequence[ListedImage]) -> NDArray[np.bool_]:
        """Return which images of a listing are recorded, (n,) bool, and mark them as listed."""
        digests, recorded = _digests(files), self._sort()
        if not len(recorded):
            return np.zeros(len(files), bool)
        # Of images that are recorded twice, the first is found, the others count as deleted.
        at = np.searchsorted(recorded, digests).clip(max=len(recorded) - 1)
        found: NDArray[np.bool_] = recorded[at] == digests
        self._listed[self._slots[at[found]]] = True
        return found

    def listed(self, slots: range) -> NDArray[np.bool_]:
        """Return which of the slots were found in the listing so far."""
        self._sort()
        return self._listed[slots.start : slots.stop]

    def _sort(self) -> NDArray[np.bytes_]:
        if self._sorted is None:
            digests = np.concatenate([_digests([]), *self._digests])
            self._digests = []
            self._slots = np.argsort(digests, kind="stable")
            self._sorted = digests[self._slots]
            self._listed = np.zeros(self._count, bool)
        return self._sorted


def _digests(files: Sequence[ListedImage]) -> NDArray[np.bytes_]:
    return np.array(
        [
            hashlib.blake2b(json.dumps(file).encode(), digest_size=_DIGEST_BYTES).digest()
            for file in files
        ],
        dtype=f"S{_DIGEST_BYTES}",
    )
