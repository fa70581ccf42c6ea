"""What each worker of a training reserves in the cluster, and the environment it starts with."""

import logging
import os

from ray.train import ScalingConfig

from pipeline.cluster import ClusterResources
from pipeline.config import RunConfig, TrainConfig
from pipeline.train.failures import TrainingError

logger = logging.getLogger(__name__)

# Every torch version reads the first, and prefers it. The second is the newer name, but torch 2.9.1
# ignores expandable_segments in it, and 2.11 is the first known to read it
# (pytorch/pytorch#183387).
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def scaling_config(config: RunConfig, resources: ClusterResources) -> ScalingConfig:
    """Return the number of workers and what each reserves: a GPU if configured and available.

    Raises:
        TrainingError: the only machine cannot hold the workers; Ray would wait forever.
    """
    train = config.train
    most = train.worker_count
    fewest = min(train.min_workers or most, most)
    use_gpu = _uses_gpus(train, fewest, resources.gpus)
    needed = {
        "CPU": fewest * train.worker_cpus,
        "GPU": fewest * train.gpus_per_worker * use_gpu,
    }
    available = {"CPU": resources.cpus, "GPU": resources.gpus}
    # A cluster of several machines may have an autoscaler that adds the rest.
    if len(resources.machines) <= 1:
        for kind, amount in needed.items():
            if amount > available[kind]:
                name = "workers" if fewest == most else "min_workers"
                raise TrainingError(
                    f"train.{name}={fewest} need {amount:g} {kind}s, but this machine has "
                    f"{available[kind]:g}; lower train.workers or train.cpus_per_worker, "
                    "or set train.device=cpu"
                )
    if not use_gpu and train.precision == "fp16":
        raise TrainingError("train.precision=fp16 needs a GPU; use bf16 or fp32")
    return ScalingConfig(
        num_workers=most if fewest == most else (fewest, most),
        use_gpu=use_gpu,
        resources_per_worker={
            "CPU": train.worker_cpus,
            **({"GPU": train.gpus_per_worker} if use_gpu else {}),
        },
    )


def _uses_gpus(train: TrainConfig, workers: int, gpus: float) -> bool:
    """Return whether each worker gets a GPU; warn if ``auto`` leaves GPUs unused."""
    if train.device != "auto":
        return train.device == "cuda"
    if train.gpus_per_worker < 1:
        return gpus >= workers * train.gpus_per_worker
    if 1 <= gpus < workers:
        per_micro_batch = train.global_batch // train.accumulate
        logger.warning(
            "training on the CPU: each of train.workers=%d needs a GPU, but the cluster has %g. "
            "Set train.workers=%d to train on GPUs, or train.device=cpu if the CPU is intended.",
            workers,
            gpus,
            max(n for n in range(1, int(gpus) + 1) if per_micro_batch % n == 0),
        )
    return gpus >= workers


def worker_environment(use_gpu: bool) -> dict[str, str]:
    """Return the environment variables to start the workers with.

    torch reads the settings of its allocator when it initializes CUDA, which Ray Train does before
    it calls the training function.
    """
    if not use_gpu or any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return {}
    # Batches differ in size; without it, freed memory is too fragmented for a larger batch.
    return {ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}
