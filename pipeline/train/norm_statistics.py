"""Keep the running statistics of batch norms clean of steps that are skipped."""

import torch
from torch import Tensor, nn


class NormStatistics:
    """The running means and variances of a model's batch norms, as they were before a step.

    The forward pass updates them, so a NaN in it would stay in them although the step is skipped.

    Args:
        model: in training; frozen norms have no running statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        self._present = [
            buffer
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        self._before = [buffer.clone() for buffer in self._present]

    def keep(self) -> None:
        """Remember the statistics, before the forward pass."""
        for before, present in zip(self._before, self._present, strict=True):
            before.copy_(present)

    def restore_unless(self, finite: Tensor) -> None:
        """Restore them if a step is skipped; the device decides.

        Args:
            finite: scalar bool, whether the step is taken.
        """
        for before, present in zip(self._before, self._present, strict=True):
            present.copy_(torch.where(finite, present, before))
