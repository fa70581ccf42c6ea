"""Warn at the start of a job whose operators are not compiled for its device."""

import logging

import torch

from ops_cuda import backend
from ops_cuda.library import KERNELS, compiled_for

logger = logging.getLogger(__name__)


def warn_if_not_compiled(device: torch.device) -> None:
    """Log a warning if no operator is compiled for the device of a job.

    The results are the same, only slower, so a failed CUDA build or a wheel without CUDA would
    otherwise go unnoticed.
    """
    built = [name for name, devices in KERNELS.items() if device.type in devices]
    if built:
        # Warns by itself, now rather than at the first operator, if the code does not fit this GPU.
        compiled_for(built[0], device)
        return
    switch = "OPS_CUDA=1 " if device.type == "cuda" else ""
    logger.warning(
        "the operators are not compiled for %s, and their slower reference implementations run "
        "instead; the library found is %s. `%spip install -e . --no-build-isolation` builds them, "
        "or says what is missing.",
        device.type,
        backend(),
        switch,
    )
