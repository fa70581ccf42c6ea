"""Move structures and small host values to a device, without a sync."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def tensor_on(
    device: torch.device,
    values: Sequence[float] | Sequence[Sequence[float]],
    dtype: torch.dtype,
) -> Tensor:
    """Return ``values`` as a tensor on ``device`` without a device sync."""
    # Only a copy from pinned memory is ordered on the stream; from pageable memory the host waits.
    numbers = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return numbers.to(device, non_blocking=True)


def map_tensors(structure: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a structure with every tensor replaced.

    Args:
        structure: a dataclass whose fields hold tensors, such dataclasses, or anything else, which
            stays as it is.
        change: called for each tensor, in the order of the fields.
    """
    if not is_dataclass(structure) or isinstance(structure, type):
        return structure
    changed: dict[str, Any] = {}
    for field in fields(structure):
        value = getattr(structure, field.name)
        changed[field.name] = (
            change(value) if isinstance(value, Tensor) else map_tensors(value, change)
        )
    return replace(structure, **changed)


def tensors_of(structure: object) -> list[Tensor]:
    """Return all tensors of a structure, in the order of :func:`map_tensors`."""
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(structure, keep)
    return tensors
