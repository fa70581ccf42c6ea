"""The replicas of a detector on Ray Serve.

Ray Serve starts and restarts them, and spreads the requests. Its own HTTP proxy is not used: it
reads a whole body before the application sees the request, so nothing could be refused by its
size, and it would be three processes between the client and the model in place of one.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from model.inference.precision import check_precision
from pipeline.cluster import ClusterResources
from pipeline.config import RunConfig
from pipeline.serve.errors import RefusedError, ServeError
from pipeline.serve.messages import Answer, DetectionRequest
from pipeline.serve.replica import DetectorReplica

logger = logging.getLogger(__name__)

# Its warnings are about slow starts and busy replicas, and advise to set variables of Ray Serve.
_LOGGING = {"log_level": "ERROR", "enable_access_log": False}
_BATCH = {"cpu": 1, "cuda": 8}  # on a CPU a larger batch takes as much longer


@dataclass(frozen=True)
class ReplicaResources:
    """What each replica has.

    Args:
        count: number of replicas.
        device: "cpu" or "cuda".
        batch: most images per forward pass.
        threads: CPU threads of a forward pass.
    """

    count: int
    device: str
    batch: int
    threads: int


class RayDetectionService:
    """The replicas, called through Ray Serve.

    Args:
        handle: of the deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def detect(self, request: DetectionRequest) -> Answer:
        """Answer a request.

        Raises:
            RefusedError: the replica that had it was lost.
        """
        answer: Answer = await _answer_of(self._handle.detect.remote(request))
        return answer

    async def describe(self) -> dict[str, object]:
        """Return the version of the model that a replica answers with, and its classes.

        Raises:
            RefusedError: the replica was lost.
        """
        description: dict[str, object] = await _answer_of(self._handle.describe.remote())
        return description


async def _answer_of(response: Any) -> Any:
    try:
        return await response
    except (RayActorError, RayServeException) as error:
        logger.warning("a replica was lost: %s", error)
        raise RefusedError(503, "a replica was lost; send the request again") from error


@contextmanager
def deployed_detector(
    config: RunConfig, resources: ClusterResources, port: int
) -> Iterator[RayDetectionService]:
    """Run the replicas of ``serve`` on the joined cluster for a ``with`` block.

    Args:
        config: the job's settings.
        resources: those of the cluster.
        port: of the web server. A server that starts again replaces the replicas that one before it
            on the same port left on the cluster when it was killed.

    Raises:
        ServeError: the replicas do not start.
    """
    each = replica_resources(config, resources)
    name = f"maskrcnn-ray-{socket.gethostname()}-{port}"
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config=_LOGGING)
    deployment = serve.deployment(
        DetectorReplica,
        name="detector",
        num_replicas=each.count,
        # The web server limits the requests; a replica takes all it is sent, and batches them.
        max_ongoing_requests=2 * config.serve.queue,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if each.device == "cuda" else 0},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=config.serve.stop_s,
        logging_config=_LOGGING,
    )
    application = deployment.bind(config, each.device, each.batch, each.threads)
    try:
        try:
            handle = serve.run(application, name=name, route_prefix=None)
        except RuntimeError as error:
            raise ServeError(f"the replicas did not start: {_last_line(error)}") from error
        yield RayDetectionService(handle)
    finally:
        serve.delete(name)
        # A Ray of this job ends as a whole. On a cluster, others may use Ray Serve too.
        if _is_on_cluster() and not serve.status().applications:
            serve.shutdown()


def replica_resources(config: RunConfig, resources: ClusterResources) -> ReplicaResources:
    """Return what the replicas have; their number is limited to what the cluster can hold.

    Raises:
        ServeError: their device cannot compute in ``serve.precision``.
    """
    settings = config.serve
    device = "cuda" if resources.gpus >= 1 else "cpu"
    slots = int(resources.gpus if device == "cuda" else resources.cpus)
    count = max(1, min(settings.replicas, slots))
    if count < settings.replicas:
        logger.warning("the cluster can hold only %d of %d replicas", count, settings.replicas)
    try:
        check_precision(settings.precision, torch.device(device))
    except ValueError as error:
        raise ServeError(f"serve.precision: {error}") from error
    threads = max(1, int(resources.cpus) // count)
    return ReplicaResources(count, device, settings.batch or _BATCH[device], threads)


def _is_on_cluster() -> bool:
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def _last_line(error: Exception) -> str:
    """Return the last line of Ray Serve's message, which has the traceback of the replica."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
