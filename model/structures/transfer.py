"""Copy small host values to the device without a sync."""

from collections.abc import Sequence

import torch
from torch import Tensor


def tensor_on(
    device: torch.device,
    values: Sequence[float] | Sequence[Sequence[float]],
    dtype: torch.dtype,
) -> Tensor:
    """Return ``values`` as a tensor on ``device`` without a device sync."""
    # Only a copy from pinned memory is ordered on the stream; from pageable memory the host waits.
    numbers = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return numbers.to(device, non_blocking=True)
