"""How many workers a training has, and CPUs each: ``auto`` follows the cluster's machines."""

import logging

from pipeline.cluster import ClusterResources, Machine
from pipeline.config import TrainConfig
from pipeline.train.failures import TrainingError

logger = logging.getLogger(__name__)


def settle_workers(
    train: TrainConfig, resources: ClusterResources, is_trial: bool = False
) -> TrainConfig:
    """Return the settings with numbers for ``workers`` and ``cpus_per_worker``.

    Args:
        train: the settings of the training.
        resources: the cluster.
        is_trial: whether it is a trial of a sweep, which shares the cluster with other trials.

    Raises:
        TrainingError: ``workers`` are to be counted by GPUs, and there are none.
    """
    machines = resources.machines or (Machine(resources.cpus, resources.gpus),)
    workers, cpus = train.workers, train.cpus_per_worker
    if workers == "auto":
        # Two workers of a training cannot share a GPU.
        single = is_trial or train.gpus_per_worker < 1
        workers = 1 if single else _count_workers(train, machines, resources.has_autoscaler)
    if cpus == "auto":
        takes_gpus = _takes_gpus(train, workers, machines)
        cpus = _share_cpus(workers, machines, takes_gpus, is_trial, train.gpus_per_worker)
    return train.model_copy(update={"workers": workers, "cpus_per_worker": cpus})


def fit_to_workers(train: TrainConfig, workers: int) -> TrainConfig:
    """Return the settings for another number of workers than configured (``min_workers``).

    Their shares of the batch differ by at most one image. With fewer workers there are more
    micro-batches, so that none needs more memory than configured, if the shares allow it.
    """
    if workers == train.worker_count:
        return train
    micro_batch = train.global_batch // (train.worker_count * train.accumulate)
    smallest, largest = train.global_batch // workers, -(-train.global_batch // workers)
    accumulate = max(1, min(smallest, -(-largest // micro_batch)))
    return train.model_copy(update={"accumulate": accumulate})


def _count_workers(train: TrainConfig, machines: tuple[Machine, ...], has_autoscaler: bool) -> int:
    """Return one per GPU, or per machine; fewer if they cannot share a micro-batch evenly."""
    gpus = int(sum(machine.gpus for machine in machines))
    if train.device == "cuda" and gpus == 0:
        raise TrainingError(
            "train.workers=auto counts the GPUs of the cluster, and there are none now; to wait "
            "for machines that an autoscaler adds, set train.workers to a number"
        )
    if gpus and has_autoscaler and train.device != "cpu":
        logger.warning(
            "train.workers=auto counts the %d GPUs that the cluster has now; to wait for more that "
            "its autoscaler adds, set train.workers to a number",
            gpus,
        )
    kind, available = "GPUs", gpus
    if train.device == "cpu" or gpus == 0:
        kind, available = "machines", len([each for each in machines if each.cpus >= 1]) or 1
    images = train.global_batch // train.accumulate
    workers = max(n for n in range(1, min(available, images) + 1) if images % n == 0)
    if workers < available:
        logger.warning(
            "train.workers=auto: %d of %d %s are used, because more cannot share %d images "
            "(global_batch / accumulate) evenly",
            workers,
            available,
            kind,
            images,
        )
    return workers


def _takes_gpus(train: TrainConfig, workers: int, machines: tuple[Machine, ...]) -> bool:
    enough = sum(machine.gpus for machine in machines) >= workers * train.gpus_per_worker
    return train.device == "cuda" or (train.device == "auto" and enough)


def _share_cpus(
    workers: int,
    machines: tuple[Machine, ...],
    takes_gpus: bool,
    is_trial: bool,
    gpu_share: float,
) -> float:
    """Return the CPUs of each worker, at least 1: the same for all, so that every machine fits."""
    with_gpus = [machine for machine in machines if machine.gpus >= 1]
    if takes_gpus and with_gpus:
        return max(1.0, min(machine.cpus * gpu_share // machine.gpus for machine in with_gpus))
    if takes_gpus or is_trial:
        return 1.0
    with_cpus = [machine for machine in machines if machine.cpus >= 1] or list(machines)
    per_machine = -(-workers // len(with_cpus))  # rounded up
    return max(1.0, min(machine.cpus for machine in with_cpus) // per_machine)
