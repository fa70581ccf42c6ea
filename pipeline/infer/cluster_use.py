"""Whether batch inference needs a Ray cluster, and how many replicas of the model it starts."""

import os
from collections.abc import Mapping
from typing import Literal

Workers = int | Literal["auto"]


def needs_cluster(workers: Workers) -> bool:
    """Return whether a job runs on Ray: with several workers, or where RAY_ADDRESS names a cluster.

    A single worker on this machine predicts in the process of the job: starting Ray, and a process
    that loads PyTorch again, take longer than many a job.
    """
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        return True
    return (_local_gpus() if workers == "auto" else workers) > 1


def count_replicas(workers: Workers, resources: Mapping[str, float]) -> int:
    """Return the number of replicas that are asked for on a cluster with these resources."""
    return max(1, int(resources.get("GPU", 0))) if workers == "auto" else workers


def _local_gpus() -> int:
    # Imported late: the command's help does not wait for PyTorch.
    import torch  # noqa: PLC0415

    return torch.cuda.device_count()
