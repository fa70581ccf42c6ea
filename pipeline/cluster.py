"""The Ray cluster of a job: the one it was submitted to, or a local one started for it.

A local cluster is closed: its processes listen on the loopback interface only, and nobody joins it
without the token of the job.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import AuthenticationError
from ray.experimental.internal_kv import _internal_kv_get

from pipeline.ray_init import accept_loopback, leave_agent_port, without_advice

logger = logging.getLogger(__name__)

# Settings that all processes of a cluster must share, and settings that stop telemetry and noise in
# the terminal. A variable that the user has set is left alone.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # An s3 checkpoint is resumable only after the controller has polled every rank.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray would print the output of pycocotools although its stdout is redirected.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # At INFO it logs one line per execution, in between the lines of the training.
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A bar of 200 lines in a log, for the files of a registered model.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DO_NOT_TRACK": "true",
}

# Settings of a local cluster: what Ray collects for its dashboard, and its watch for machines that
# a cloud takes away, cost a tenth of a core. Ray's niceness of 15 would put a training behind
# everything else on the machine, Ray's own processes included.
LOCAL_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

LOOPBACK = "127.0.0.1"

# Ray itself waits minutes for a cluster that is not there.
_ADDRESS_TIMEOUT_S = 10.0
_REFUSAL_PAUSE_S = 2.0

_HOST_AND_PORT = re.compile(r"[^/]+:\d+")
_TOKEN_FILE = Path("~/.ray/auth_token")


class ClusterError(ConnectionError):
    """The Ray cluster cannot be joined; the message says what to do."""


@dataclass(frozen=True)
class Machine:
    """The resources of one machine."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ClusterResources:
    """The total resources of a cluster now, its machines, and whether Ray adds some on demand."""

    cpus: float
    gpus: float
    machines: tuple[Machine, ...] = ()
    has_autoscaler: bool = False


def connect() -> ClusterResources:
    """Join the cluster named by RAY_ADDRESS, or start one on this machine.

    Returns:
        The cluster's CPUs and GPUs.

    Raises:
        ClusterError: RAY_ADDRESS names a cluster that does not answer, or wants a token; or Ray
            does not start on this machine.
    """
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "local")
        if address in ("", "local"):
            logger.info("starting Ray on this machine")
            start_local()
        else:
            logger.info("joining the Ray cluster at %s", address)
            _join(address)
        resources = _total_resources()
        logger.info("Ray has %g CPUs and %g GPUs", resources.cpus, resources.gpus)
    return _total_resources()


def start_local(**options: Any) -> None:
    """Start a Ray that only this process and those it starts can use, and join it.

    Its processes listen on the loopback interface and ask for a token, which they inherit from this
    process: RAY_AUTH_TOKEN, or a new random one.

    Args:
        options: further arguments of ``ray.init``, for example ``num_cpus``.

    Raises:
        ClusterError: Ray does not start, twice.
    """
    prepare_environment()
    for name, value in {**LOCAL_ENVIRONMENT, **_closing_environment()}.items():
        os.environ.setdefault(name, value)
    arguments = {
        # Otherwise Ray looks for the last cluster started here, and waits long if it is gone.
        "address": "local",
        "_node_ip_address": LOOPBACK,
        # Its ten processes cost a fifth of a core all the time.
        "include_dashboard": False,
        "log_to_driver": True,
        "logging_level": logging.WARNING,
        **options,
    }
    try:
        _init(arguments)
    except Exception as error:  # of many types; the most frequent is a plain Exception
        logger.warning("Ray did not start (%s); trying again", _first_line(error))
        ray.shutdown()
        try:
            _init(arguments)
        except Exception as again:
            raise ClusterError(
                f"Ray does not start on this machine ({_first_line(again)}). It gives up after "
                "30 s: is the machine very busy, or its memory or /tmp full? Ray's logs are in "
                "/tmp/ray/session_latest/logs."
            ) from again


def _init(arguments: dict[str, Any]) -> None:
    with accept_loopback(), leave_agent_port(), without_advice():
        ray.init(**arguments)


def _join(address: str) -> None:
    prepare_environment()
    check_address(address)
    try:
        try:
            _connect_to(address)
        except AuthenticationError:
            # A head on a busy machine has refused a right token once, and then accepted it.
            ray.shutdown()
            time.sleep(_REFUSAL_PAUSE_S)
            _connect_to(address)
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at RAY_ADDRESS={address} refuses the token of this process, or it "
            "has none: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on "
            f"the machines of the cluster (docs/CLUSTER.md). Ray says: {_first_line(error)}"
        ) from error
    except ConnectionError as error:
        raise ClusterError(_unreachable(address, error)) from error


def _connect_to(address: str) -> None:
    _check_token(address)
    with without_advice():
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)


def _check_token(address: str) -> None:
    """Raise AuthenticationError at once; ``ray.init`` would try again for minutes."""
    if not _HOST_AND_PORT.fullmatch(address):
        return
    variables = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and not (
        any(os.environ.get(name) for name in variables) or _TOKEN_FILE.expanduser().exists()
    ):
        return  # ray.init raises it, and the client below would end the process
    with contextlib.suppress(ray.exceptions.RpcError):  # left to ray.init
        GcsClient(address=address)


def _total_resources() -> ClusterResources:
    machines = tuple(
        Machine(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    )
    total = ray.cluster_resources()
    return ClusterResources(
        total.get("CPU", 0.0), total.get("GPU", 0.0), machines, has_autoscaler()
    )


def has_autoscaler() -> bool:
    """Return whether the cluster that this process has joined adds machines on demand.

    Ray has no function that says so. Its monitor reports the type of each machine: a name in the
    configuration of the autoscaler, or, if there is none, ``node_`` and the machine's id.
    """
    types: dict[str, str] = {}
    if status := _internal_kv_get(DEBUG_AUTOSCALING_STATUS):
        types = json.loads(status).get("autoscaler_report", {}).get("node_type_mapping") or {}
    if not types:  # a cluster that has just started, or the second version of the autoscaler
        try:
            present = get_cluster_status(ray.get_runtime_context().gcs_address)
        except Exception as error:  # of several types, from the client of Ray's control service
            logger.warning("whether the cluster has an autoscaler is unknown: %s", error)
            return False
        nodes = [*present.active_nodes, *present.idle_nodes]
        types = {node.node_id: node.ray_node_type_name for node in nodes}
    return any(kind != f"node_{node}" for node, kind in types.items())


def _closing_environment() -> dict[str, str]:
    """Return the variables that keep strangers out of a local cluster."""
    loopback = next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == LOOPBACK for address in addresses)
    )
    token = {} if "RAY_AUTH_TOKEN_PATH" in os.environ else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # The workers of a training connect to each other, past Ray.
    return {**token, "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}


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
    return (
        f"no Ray cluster answers at RAY_ADDRESS={address} ({_first_line(error)}). Start it with "
        "`ray start --head`, correct RAY_ADDRESS, or unset it to use this machine alone."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


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
