"""Checks of operator arguments. Errors say what was required, what was passed, and the remedy."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def require_rows(name: str, tensor: Tensor, columns: int) -> None:
    """Raise ValueError unless ``tensor`` is (N, ``columns``) and floating point."""
    if tensor.ndim != 2 or tensor.shape[1] != columns:
        hint = " Flattened twice?" if tensor.ndim == 1 else ""
        raise ValueError(f"{name} must be (N, {columns}); got {tuple(tensor.shape)}.{hint}")
    require_floating(name, tensor)


def require_floating(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless ``tensor`` is floating point."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point; got {tensor.dtype}. Call .float()")


def require_indices(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless ``tensor`` is one-dimensional int64."""
    if tensor.ndim != 1 or tensor.dtype != torch.int64:
        raise ValueError(f"{name} must be (N,) int64; got {tuple(tensor.shape)} {tensor.dtype}")


def require_equal_length(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors have the same first dimension."""
    lengths = {name: tensor.shape[0] for name, tensor in tensors.items()}
    # pairwise, not as a set: torch.compile cannot hash a symbolic length
    if any(one != other for one, other in itertools.pairwise(lengths.values())):
        raise ValueError(f"lengths disagree: {lengths}")


def require_one_device(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are on the same device."""
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors are on different devices: {devices}. Move them with .to()")


def require_fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1]; got {value}")


def require_positive(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is above zero."""
    if value <= 0:
        raise ValueError(f"{name} must be positive; got {value}")


def require_pyramid(scales: Sequence[float]) -> None:
    """Raise ValueError unless scales are consecutive powers of two, finest first.

    A single scale may have any positive value, because no ROI has to be assigned to a level.
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales must be positive, one per level; got {list(scales)}")
    if len(scales) == 1:
        return
    halves = all(fine == 2 * coarse for fine, coarse in itertools.pairwise(scales))
    if not halves or math.frexp(scales[0])[0] != 0.5:
        raise ValueError(
            f"scales must be consecutive powers of two, finest first, as [1/4, 1/8, 1/16]; "
            f"got {list(scales)}"
        )


def single_or_double(tensor: Tensor) -> Tensor:
    """Return float32 and float64 tensors unchanged, half types as float32.

    Boxes in half precision lose whole pixels above 2,048 px.
    """
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
