"""Precision of the forward pass: fp32, or autocast to a half type."""

from contextlib import AbstractContextManager, nullcontext

import torch

from model.config.settings import Precision

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise unless a device can compute in a precision.

    Raises:
        ValueError: there is no such precision, or it is fp16 on a CPU, which lacks the kernels.
    """
    if precision not in ("fp32", *AUTOCAST_TYPES):
        raise ValueError(f"precision must be fp32, bf16 or fp16; got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU; on a CPU use bf16 or fp32")


def fastest_precision(device: torch.device) -> Precision:
    """Return bf16 for GPUs that have it (compute capability 8.0), fp16 for older, fp32 for CPUs."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_TYPES[precision])
