"""Registration of compiled operators with torch, called by each operator's file.

Without the compiled library nothing is registered, and the reference implementations run.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ops_cuda import library

FakeKernel = TypeVar("FakeKernel", bound=Callable[..., Any])


def register_fake(operator: str) -> Callable[[FakeKernel], FakeKernel]:
    """Register the decorated function as the fake kernel of a compiled operator.

    A fake kernel returns empty tensors of the result's shape, type and layout, which makes the
    operator traceable by torch.compile and torch.export.
    """

    def register(fake: FakeKernel) -> FakeKernel:
        if library.LOADED:
            torch.library.register_fake(f"ops_cuda::{operator}", fake)
            library.record_kernels(operator)
        return fake

    return register


def result_layout(feature_map: Tensor) -> torch.memory_format:
    """Return the layout that kernels choose for a result (B, C, H, W) computed from this map."""
    channels_last = feature_map.stride(1) == 1 and feature_map.shape[1] > 1
    return torch.channels_last if channels_last else torch.contiguous_format


def register_autocast_to_float32(*operators: str) -> None:
    """Make operators compute in float32 under autocast.

    Boxes in half precision lose whole pixels above 2,048 px.
    """
    for operator in operators if library.LOADED else ():
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"ops_cuda::{operator}", device, torch.float32)


def register_autograd(
    operator: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Register the gradient of an operator, as `torch.library.register_autograd` takes it."""
    if library.LOADED:
        torch.library.register_autograd(
            f"ops_cuda::{operator}", backward, setup_context=setup_context
        )
