"""The Ray cluster of a job: the one it was submitted to, or a local one started for it."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

# Settings that all processes of a cluster must share, and settings that stop telemetry and noise in
# the terminal. A variable that the user has set is left alone.
ENVIRONMENT = {
    # ray.init would enable token authentication, and `ray job submit` sends no token.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # An s3 checkpoint is resumable only after the controller has polled every rank.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray would print the output of pycocotools although its stdout is redirected.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # At INFO it logs one line per execution, in between the lines of the training.
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


# Ray itself waits minutes for a cluster that is not there.
_ADDRESS_TIMEOUT_S = 10.0


class ClusterError(ConnectionError):
    """The Ray cluster cannot be joined; the message says what to do."""


@dataclass(frozen=True)
class ClusterResources:
    """The total resources of a cluster."""

    cpus: float
    gpus: float


def connect() -> ClusterResources:
    """Join the cluster named by RAY_ADDRESS, or start one on this machine.

    Returns:
        The cluster's CPUs and GPUs.

    Raises:
        ClusterError: RAY_ADDRESS names a cluster that does not answer.
    """
    prepare_environment()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address is not None:
            check_address(address)
        try:
            ray.init(**_init_options())
        except ConnectionError as error:
            raise ClusterError(_unreachable(address, error)) from error
    total = ray.cluster_resources()
    return ClusterResources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0))


def check_address(address: str) -> None:
    """Check that something listens at an address of the form ``host:port``; accept any other.

    Raises:
        ClusterError: nothing does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto", "local" or the address of a dashboard
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ADDRESS_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_unreachable(address, error)) from error


def _unreachable(address: str | None, error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"no Ray cluster answers at RAY_ADDRESS={address} ({first_line}). Start it with "
        "`ray start --head`, correct RAY_ADDRESS, or unset it to use this machine alone."
    )


@contextlib.contextmanager
def session() -> Iterator[ClusterResources]:
    """Connect for a ``with`` block; a connection that existed before stays open."""
    was_connected = ray.is_initialized()
    resources = connect()
    try:
        yield resources
    finally:
        if not was_connected:
            ray.shutdown()


def prepare_environment() -> None:
    """Set those variables of ``ENVIRONMENT`` that the user has not set."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _init_options() -> dict[str, Any]:
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if "RAY_ADDRESS" not in os.environ:
        # Otherwise Ray looks for the last cluster started here, and waits long if it is gone.
        options["address"] = "local"
        # Without the dashboard, a stopped Tune trial keeps its placement group.
        options["include_dashboard"] = True
    return options
