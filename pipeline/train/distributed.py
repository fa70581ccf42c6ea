"""Operations across the workers of a run; a single worker needs no process group."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def worker_count() -> int:
    """Return the number of workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_objects(value: T) -> list[T]:
    """Return the values of all workers, by rank; every worker must call it."""
    if worker_count() == 1:
        return [value]
    values = [value] * worker_count()
    dist.all_gather_object(values, value)
    return values


def average_norm_statistics(model: nn.Module) -> None:
    """Replace BatchNorm's running means and variances by their mean over all workers.

    Each worker gathers them from its own images. Called before weights are saved or evaluated;
    training itself never reads them. Does nothing for frozen or group norms.
    """
    statistics = [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if not statistics or worker_count() == 1:
        return
    flat = torch.cat([buffer.flatten() for buffer in statistics])
    dist.all_reduce(flat)
    flat /= worker_count()
    means = torch.split(flat, [buffer.numel() for buffer in statistics])
    for buffer, mean in zip(statistics, means, strict=True):
        buffer.copy_(mean.view_as(buffer))
