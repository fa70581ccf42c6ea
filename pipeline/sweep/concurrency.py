"""How many trials run at once."""

import math

from pipeline.cluster import ClusterResources, Machine
from pipeline.config import RunConfig
from pipeline.train.failures import TrainingError
from pipeline.train.worker_resources import scaling_config


def concurrent_trials(config: RunConfig, resources: ClusterResources, count: int) -> int:
    """Return how many trials fit into the cluster at once, at most ``sweep.max_concurrent``.

    Args:
        config: the sweep's settings, with numbers for workers and CPUs.
        resources: the cluster.
        count: number of trials of the sweep.

    Raises:
        TrainingError: not even one fits, or not all trials of a population.
    """
    scaling = scaling_config(config, resources)
    machines = resources.machines or (Machine(resources.cpus, resources.gpus),)
    workers = sum(_fitting(scaling.resources_per_worker, machine) for machine in machines)
    limit = max(1, workers // config.train.worker_count)
    if config.sweep.scheduler == "pbt" and min(limit, config.sweep.max_concurrent or limit) < count:
        raise TrainingError(
            f"sweep.scheduler=pbt compares all {count} trials while they run, but only {limit} fit "
            "into the cluster at once (sweep.max_concurrent may lower that); lower sweep.trials, "
            "or let a trial reserve less: train.cpus_per_worker=0.5, train.gpus_per_worker=0.5"
        )
    return min(limit, config.sweep.max_concurrent or limit, count)


def _fitting(per_worker: dict[str, float], machine: Machine) -> int:
    """Return how many workers fit on a machine."""
    available = {"CPU": machine.cpus, "GPU": machine.gpus}
    return min(
        math.floor(available.get(kind, 0.0) / amount + 1e-9)
        for kind, amount in per_worker.items()
        if amount
    )
