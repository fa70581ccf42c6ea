"""The Ray cluster a job runs on: the one it was submitted to, or a local one started for it."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

# What every process of a cluster must agree on, or what would otherwise phone home or fill the
# terminal. Set only where the user has not.
ENVIRONMENT = {
    # ray.init would switch token authentication on and `ray job submit` sends no token.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # An s3 checkpoint is resumable only after the controller has polled every rank.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray would print what pycocotools says into a redirected stream.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Its information is one line for each execution, between the lines of the training.
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True)
class ClusterResources:
    """What the cluster has in all: CPUs and GPUs."""

    cpus: float
    gpus: float


def connect() -> ClusterResources:
    """Join the cluster named by RAY_ADDRESS, or start one on this machine.

    Returns:
        The cluster's CPUs and GPUs.

    Raises:
        ConnectionError: RAY_ADDRESS names a cluster that does not answer.
    """
    prepare_environment()
    if not ray.is_initialized():
        ray.init(**_init_options())
    total = ray.cluster_resources()
    return ClusterResources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0))


@contextlib.contextmanager
def session() -> Iterator[ClusterResources]:
    """``connect``, and leave the cluster at the end; a cluster that stood before stays joined."""
    joined_before = ray.is_initialized()
    resources = connect()
    try:
        yield resources
    finally:
        if not joined_before:
            ray.shutdown()


def prepare_environment() -> None:
    """Set the variables of ``ENVIRONMENT`` that the user has not set."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _init_options() -> dict[str, Any]:
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if "RAY_ADDRESS" not in os.environ:
        # Otherwise Ray looks for the last cluster started here, and waits long for a dead one.
        options["address"] = "local"
        # Without the dashboard a stopped Tune trial keeps its placement group.
        options["include_dashboard"] = True
    return options
