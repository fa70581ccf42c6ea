"""Metrics on their way to MLflow, without the power to stop a training.

A background thread delivers in batches; while the tracker is away everything waits in memory, and
one line says so. Delivering a metric twice is harmless: MLflow keeps one row per key, step, value
and time.
"""

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from PIL import Image

logger = logging.getLogger(__name__)

METRICS_PER_REQUEST = 1000  # MLflow's limit for log_batch
PERMANENT_ERRORS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"})


@dataclass(frozen=True)
class _Picture:
    name: str
    pixels: np.ndarray
    step: int


class MetricSink:
    """Buffers metrics and pictures of one run and delivers them from a thread of its own.

    Args:
        uri: MLflow tracking URI.
        run_id: the run they belong to.
        retry_s: pause between attempts while the tracker is away, seconds.
        capacity: items kept while it is away; older ones are dropped, and counted.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        *,
        retry_s: float = 5.0,
        capacity: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.uri = uri
        self.run_id = run_id
        self.delivered = 0
        self.dropped = 0
        self.failed_attempts = 0
        self._retry_s = retry_s
        self._capacity = capacity
        self._clock = clock
        self._waiting: deque[Metric | _Picture] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._hurried = False
        self._thread = threading.Thread(target=self._run, name="metric-sink", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue ``metrics`` of ``step``; returns at once, whatever the tracker does."""
        now_ms = int(self._clock() * 1000)
        self._queue([Metric(key, float(value), now_ms, step) for key, value in metrics.items()])

    def log_picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Queue a picture, (H, W, 3) uint8 RGB, as artifact ``pictures/{name}-{step}.png``."""
        self._queue([_Picture(name, np.ascontiguousarray(pixels), step)])

    def flush(self, timeout_s: float = 60.0) -> int:
        """Wait until everything is delivered; returns how many items still are not."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            while self._waiting and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return len(self._waiting)

    def close(self, timeout_s: float = 60.0) -> None:
        """Flush, end the thread, and say what was lost, if anything."""
        undelivered = self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        lost = undelivered + self.dropped
        if lost:
            logger.error(
                "MLflow run %s: %d items were never delivered (%d delivered)",
                self.run_id,
                lost,
                self.delivered,
            )

    def _queue(self, items: list[Metric] | list[_Picture]) -> None:
        with self._changed:
            self._waiting.extend(items)
            while len(self._waiting) > self._capacity:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify_all()

    def _run(self) -> None:
        client: MlflowClient | None = None
        while (head := self._next_batch()) is not None:
            try:
                # Made here: a client of a fresh or absent store may block or raise.
                client = client or MlflowClient(tracking_uri=self.uri)
                _deliver(client, self.run_id, head)
            except MlflowException as error:
                if error.error_code in PERMANENT_ERRORS:
                    self._reject(head, error)
                else:
                    self._pause(error)
            except Exception as error:  # whatever a tracker does, the training goes on
                self._pause(error)
            else:
                self._settle(head)

    def _next_batch(self) -> list[Metric | _Picture] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            if self._closed and self.failed_attempts:
                return None  # the last flush gave up already
            return [self._waiting[n] for n in range(min(len(self._waiting), METRICS_PER_REQUEST))]

    def _settle(self, batch: list[Metric | _Picture]) -> None:
        self._forget(batch)
        self.delivered += len(batch)
        if self.failed_attempts:
            logger.warning(
                "MLflow is back after %d failed attempts; %d items still to deliver",
                self.failed_attempts,
                len(self._waiting),
            )
            self.failed_attempts = 0

    def _reject(self, batch: list[Metric | _Picture], error: MlflowException) -> None:
        self._forget(batch)
        self.dropped += len(batch)
        logger.error("MLflow refuses %d items of run %s: %s", len(batch), self.run_id, error)

    def _forget(self, batch: list[Metric | _Picture]) -> None:
        with self._changed:
            settled = {id(item) for item in batch}
            # The front may have been dropped meanwhile, for want of room.
            while self._waiting and id(self._waiting[0]) in settled:
                self._waiting.popleft()
            self._changed.notify_all()

    def _pause(self, error: Exception) -> None:
        if not self.failed_attempts:
            logger.warning(
                "MLflow does not take metrics of run %s (%s: %s); keeping them until it does",
                self.run_id,
                type(error).__name__,
                error,
            )
        self.failed_attempts += 1
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._hurried, self._retry_s)
            self._hurried = False


def _deliver(client: MlflowClient, run_id: str, batch: list[Metric | _Picture]) -> None:
    metrics = [item for item in batch if isinstance(item, Metric)]
    if metrics:
        client.log_batch(run_id, metrics=metrics, synchronous=True)
    with tempfile.TemporaryDirectory() as folder:
        for item in batch:
            if isinstance(item, _Picture):
                path = Path(folder) / f"{item.name.replace('/', '-')}-{item.step:06d}.png"
                Image.fromarray(item.pixels).save(path)
                client.log_artifact(run_id, str(path), "pictures")
