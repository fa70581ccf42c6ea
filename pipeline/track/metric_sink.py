"""Deliver metrics to MLflow from a queue that never blocks or stops training.

A background thread delivers in batches. While the tracker is unavailable, metrics wait in memory,
and a single log line reports it. Delivering a metric twice is harmless, because MLflow keeps one
row per key, step, value and time.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

logger = logging.getLogger(__name__)

METRICS_PER_REQUEST = 1000  # MLflow's limit for log_batch
PERMANENT_ERRORS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"})


class MetricSink:
    """Buffers the metrics of one run and delivers them from a background thread.

    Args:
        uri: MLflow tracking URI.
        run_id: the run they belong to.
        retry_s: pause between attempts while the tracker is unavailable, seconds.
        capacity: maximum number of waiting metrics; beyond it the oldest are dropped and counted.
        clock: returns seconds since the epoch.
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
        self._waiting: deque[Metric] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._retry_now = False
        self._thread = threading.Thread(target=self._run, name="metric-sink", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue ``metrics`` of ``step`` and return at once, whatever the tracker does."""
        now_ms = int(self._clock() * 1000)
        with self._changed:
            self._waiting.extend(
                Metric(key, float(value), now_ms, step) for key, value in metrics.items()
            )
            while len(self._waiting) > self._capacity:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float = 60.0) -> int:
        """Wait until everything is delivered; return the number of metrics that are not."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._retry_now = True
            self._changed.notify_all()
            while self._waiting and (remaining_s := deadline - time.monotonic()) > 0:
                self._changed.wait(remaining_s)
            return len(self._waiting)

    def close(self, timeout_s: float = 60.0) -> None:
        """Flush, end the thread, and log how many metrics were lost, if any."""
        undelivered = self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        lost = undelivered + self.dropped
        if lost:
            logger.error(
                "MLflow run %s: %d metrics were never delivered (%d delivered)",
                self.run_id,
                lost,
                self.delivered,
            )

    def _run(self) -> None:
        client: MlflowClient | None = None
        while (batch := self._next_batch()) is not None:
            try:
                # Created here because a client of a new or missing store may block or raise.
                client = client or MlflowClient(tracking_uri=self.uri)
                client.log_batch(self.run_id, metrics=batch, synchronous=True)
            except MlflowException as error:
                if error.error_code in PERMANENT_ERRORS:
                    self._drop_refused(batch, error)
                else:
                    self._pause(error)
            except Exception as error:  # no failure of the tracker may stop training
                self._pause(error)
            else:
                self._count_delivered(batch)

    def _next_batch(self) -> list[Metric] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            if self._closed and self.failed_attempts:
                return None  # the last flush has already given up
            return [self._waiting[n] for n in range(min(len(self._waiting), METRICS_PER_REQUEST))]

    def _count_delivered(self, batch: list[Metric]) -> None:
        self._remove(batch)
        self.delivered += len(batch)
        if self.failed_attempts:
            logger.warning(
                "MLflow is available again after %d failed attempts; %d metrics are waiting",
                self.failed_attempts,
                len(self._waiting),
            )
            self.failed_attempts = 0

    def _drop_refused(self, batch: list[Metric], error: MlflowException) -> None:
        self._remove(batch)
        self.dropped += len(batch)
        logger.error("MLflow refused %d metrics of run %s: %s", len(batch), self.run_id, error)

    def _remove(self, batch: list[Metric]) -> None:
        with self._changed:
            handled = {id(metric) for metric in batch}
            # The first ones may have been dropped in the meantime, when the queue was full.
            while self._waiting and id(self._waiting[0]) in handled:
                self._waiting.popleft()
            self._changed.notify_all()

    def _pause(self, error: Exception) -> None:
        if not self.failed_attempts:
            logger.warning(
                "MLflow does not accept metrics of run %s (%s: %s); they are kept until it does",
                self.run_id,
                type(error).__name__,
                error,
            )
        self.failed_attempts += 1
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._retry_now, self._retry_s)
            self._retry_now = False
