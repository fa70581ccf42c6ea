"""Mixed precision of a training step: autocast and, for fp16, gradient scaling."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from model.inference import precision as forward_precision


class Precision:
    """Autocast for the forward pass and a gradient scaler for the optimizer step.

    Args:
        kind: bf16 and fp16 run the forward pass under autocast; fp32 does not; auto is the fastest
            that the device supports.
        device: device of the model.

    Raises:
        ValueError: fp16 on a CPU, which lacks the kernels.
    """

    def __init__(self, kind: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> None:
        self.kind = forward_precision.fastest_precision(device) if kind == "auto" else kind
        forward_precision.check_precision(self.kind, device)
        self.device = device
        # bf16 needs no scaling: it has the exponent range of fp32.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.kind == "fp16")

    @property
    def skips_overflows(self) -> bool:
        """Whether a step with infinite gradients is skipped."""
        return self.scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return forward_precision.autocast(self.kind, self.device)
