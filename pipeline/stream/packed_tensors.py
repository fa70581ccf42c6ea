"""One buffer for all tensors of a batch, so that a single copy moves them to a device."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from model.structures.transfer import map_tensors

T = TypeVar("T")

_ALIGNMENT = 64  # bytes; a view needs its buffer aligned to its dtype, fast copies to cache lines


class TensorLayout(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def allocate_packed(
    layouts: Sequence[TensorLayout], pin_memory: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return a buffer (N,) uint8 and its uninitialized tensors of the given layouts, in order.

    Args:
        layouts: what the buffer holds.
        pin_memory: whether the memory is page-locked; only then a copy to a GPU is asynchronous.
    """
    sizes = [math.prod(layout.shape) * layout.dtype.itemsize for layout in layouts]
    begins = [0]
    for size in sizes:
        begins.append(-(-(begins[-1] + size) // _ALIGNMENT) * _ALIGNMENT)
    buffer = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=pin_memory)
    tensors = [
        buffer[begin : begin + size].view(layout.dtype).view(layout.shape)
        for begin, size, layout in zip(begins, sizes, layouts, strict=False)
    ]
    return buffer, tensors


def on_copied_buffer(structure: T, copy: Tensor) -> T:
    """Return a structure of tensors in one buffer as the same views of a copy of that buffer.

    Args:
        structure: a dataclass; see ``model.structures.transfer.map_tensors``.
        copy: (N,) uint8, the buffer's content on any device.
    """

    def same_view(tensor: Tensor) -> Tensor:
        return copy.view(tensor.dtype).as_strided(
            tensor.shape, tensor.stride(), tensor.storage_offset()
        )

    return map_tensors(structure, same_view)
