"""Where a worker of a training runs."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker runs.

    Args:
        rank: 0 .. world_size - 1.
        world_size: number of workers.
        device: its device.
    """

    rank: int
    world_size: int
    device: torch.device
