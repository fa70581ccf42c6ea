"""BatchNorm's running statistics, which each worker gathers from its own images."""

import torch
import torch.distributed as dist
from torch import nn

from pipeline.train.loss_normalization import worker_count


def average_norm_statistics(model: nn.Module) -> None:
    """Give every worker the mean of all workers' running means and variances.

    Called before weights are saved or evaluated; training itself never reads these numbers. Does
    nothing for frozen or group norms.
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
