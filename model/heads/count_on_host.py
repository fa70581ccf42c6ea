"""A count that the host learns without waiting for the device at once."""

import torch
from torch import Tensor


class CountOnHost:
    """The number of true flags, on its way to the host while the device computes on.

    Args:
        flags: any shape, bool.
    """

    def __init__(self, flags: Tensor) -> None:
        count = flags.sum().view(1)
        self._count, self._copied = count, None
        if count.is_cuda:
            # Only copies to pinned memory return before they are done.
            self._count = torch.empty(1, dtype=count.dtype, pin_memory=True)
            self._count.copy_(count, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def read(self) -> int:
        """Return the count; waits until the device has computed it, but for nothing after it."""
        if self._copied is not None:
            self._copied.synchronize()
        (count,) = self._count.tolist()
        return int(count)
