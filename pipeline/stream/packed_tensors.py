"""One buffer for all tensors of a batch, so that a single copy moves them to a device."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from model.structures.transfer import map_tensors
from pipeline.stream.buffers import Allocate

T = TypeVar("T")

_ALIGNMENT = 64  # bytes; a view needs its buffer aligned to its dtype, fast copies to cache lines


class TensorLayout(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def allocate_packed(
    layouts: Sequence[TensorLayout], allocate: Allocate
) -> tuple[Tensor, list[Tensor]]:
    """Return a buffer (N,) uint8 and its uninitialized tensors of the given layouts, in order.

    Args:
        layouts: what the buffer holds.
        allocate: returns the memory.
    """
    sizes = [math.prod(layout.shape) * layout.dtype.itemsize for layout in layouts]
    begins = [0]
    for size in sizes:
        begins.append(-(-(begins[-1] + size) // _ALIGNMENT) * _ALIGNMENT)
    buffer = allocate(begins[-1])
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
