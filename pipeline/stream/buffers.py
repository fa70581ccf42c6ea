"""Memory for batches: page-locked for copies to a GPU, otherwise used again and again."""

import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Allocate = Callable[[int], Tensor]
"""Return an uninitialized buffer (N,) uint8 of N bytes."""

_MAX_FREE = 4
_ROUNDING = 1 << 20  # bytes, so that batches of similar size fit the same block


def allocator(device: torch.device) -> Allocate:
    """Return how to allocate batches for a device; torch itself reuses page-locked memory."""
    return _page_locked if device.type == "cuda" else BufferPool().take


def new_buffer(size: int) -> Tensor:
    """Return a buffer in fresh memory."""
    return torch.empty(size, dtype=torch.uint8)


def _page_locked(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class BufferPool:
    """Buffers whose memory is used again when nothing refers to their tensors anymore.

    Filling fresh memory takes twice as long, and the C library returns blocks of this size to the
    operating system whenever they are freed. Threads may share a pool; it keeps a few free blocks.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        # Garbage collection may return a block at any time, also while the lock is held.
        self._returned: deque[NDArray[np.uint8]] = deque()

    def take(self, size: int) -> Tensor:
        """Return an uninitialized buffer (size,) uint8."""
        with self._lock:
            while self._returned:
                self._free.append(self._returned.popleft())
            self._free = sorted(self._free, key=len)[-_MAX_FREE:]
            fitting = (n for n, block in enumerate(self._free) if len(block) >= size)
            smallest = next(fitting, None)
            block = None if smallest is None else self._free.pop(smallest)
        if block is None:
            block = np.empty(max(1, -(-size // _ROUNDING)) * _ROUNDING, dtype=np.uint8)
        # The tensor keeps this view alive, and nothing else does.
        view = block[:size]
        weakref.finalize(view, self._returned.append, block).atexit = False
        return torch.from_numpy(view)
