"""Mixed precision of a training step: autocast and, for fp16, gradient scaling."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast for the forward pass and a gradient scaler for the optimizer step.

    Args:
        kind: bf16 and fp16 run the forward pass under autocast; fp32 does not.
        device: device of the model.

    Raises:
        ValueError: fp16 on a CPU, which lacks the kernels.
    """

    def __init__(self, kind: Literal["fp32", "bf16", "fp16"], device: torch.device) -> None:
        if kind == "fp16" and device.type == "cpu":
            raise ValueError(
                "train.precision=fp16 needs a GPU; on a CPU use train.precision=bf16 or fp32"
            )
        self.kind = kind
        self.device_type = device.type
        # bf16 needs no scaling: it has the exponent range of fp32.
        self.scaler = torch.amp.GradScaler(device.type, enabled=kind == "fp16")

    @property
    def skips_overflows(self) -> bool:
        """Whether a step with infinite gradients is skipped."""
        return self.scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        if self.kind == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=AUTOCAST_TYPES[self.kind])
