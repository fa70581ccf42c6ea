"""What each worker of a training reserves in the cluster, and the environment it starts with."""

import logging
import os
from collections.abc import Mapping

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
        TrainingError: the only machine cannot hold the workers, and no other will be added; Ray
            would wait forever.
    """
    train = config.train
    most = train.worker_count
    fewest = min(train.min_workers or most, most)
    use_gpu = _uses_gpus(train, fewest, resources)
    needed = {
        "CPU": fewest * train.worker_cpus,
        "GPU": fewest * train.gpus_per_worker * use_gpu,
    }
    setting = "train.workers" if fewest == most else "train.min_workers"
    _check_available(setting, fewest, needed, resources)
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


def _check_available(
    setting: str, workers: int, needed: Mapping[str, float], resources: ClusterResources
) -> None:
    """Check that the cluster holds the workers, or may soon; say so if the training waits."""
    available = {"CPU": resources.cpus, "GPU": resources.gpus}
    for kind, amount in needed.items():
        if amount <= available[kind]:
            continue
        # Machines may be added to a cluster by its autoscaler, or by hand to one of several.
        if len(resources.machines) <= 1 and not resources.has_autoscaler:
            raise TrainingError(
                f"{setting}={workers} need {amount:g} {kind}s, but this machine has "
                f"{available[kind]:g}; lower train.workers or train.cpus_per_worker, "
                "or set train.device=cpu"
            )
        logger.warning(
            "%s=%d need %g %ss, and the cluster has %g now: the training waits until %s",
            setting,
            workers,
            amount,
            kind,
            available[kind],
            "its autoscaler has added machines"
            if resources.has_autoscaler
            else "machines are added; it has no autoscaler",
        )


def _uses_gpus(train: TrainConfig, workers: int, resources: ClusterResources) -> bool:
    """Return whether each worker gets a GPU; warn if ``auto`` leaves GPUs unused."""
    gpus = resources.gpus
    if train.device != "auto":
        return train.device == "cuda"
    if gpus >= workers * train.gpus_per_worker:
        return True
    if resources.has_autoscaler and gpus < 1:
        logger.warning(
            "training on the CPU: train.device=auto looks at the GPUs that the cluster has now, "
            "and there are none. If its autoscaler adds machines with GPUs, set train.device=cuda "
            "and train.workers to their number; the training then waits for them."
        )
    elif 1 <= gpus < workers:
        per_micro_batch = train.global_batch // train.accumulate
        logger.warning(
            "training on the CPU: each of train.workers=%d needs a GPU, but the cluster has %g. "
            "Set train.workers=%d to train on GPUs, or train.device=cpu if the CPU is intended.",
            workers,
            gpus,
            max(n for n in range(1, int(gpus) + 1) if per_micro_batch % n == 0),
        )
    return False


def worker_environment(use_gpu: bool) -> dict[str, str]:
    """Return the environment variables to start the workers with.

    torch reads the settings of its allocator when it initializes CUDA, which Ray Train does before
    it calls the training function.
    """
    if not use_gpu or any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return {}
    # Batches differ in size; without it, freed memory is too fragmented for a larger batch.
    return {ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}
