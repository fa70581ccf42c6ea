"""Numbers of the host on their way to the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def integers_on(device: torch.device, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """The values as an int64 tensor on ``device``, without waiting for it."""
    # From pinned memory the copy is ordered on the stream; from any other the host would wait.
    numbers = torch.tensor(values, dtype=torch.int64, pin_memory=device.type == "cuda")
    return numbers.to(device, non_blocking=True)
