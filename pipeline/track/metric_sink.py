"""Deliver metrics to MLflow from a queue that never blocks or stops training.

A background thread delivers in batches. While the tracker is unavailable, metrics wait in memory,
and a single log line reports it. What waits is also kept in a file, so that it outlives this
process: the next sink with the same file delivers it. Delivering a metric twice is harmless,
because MLflow keeps one row per key, step, value and time.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline.track.unsent_metrics import UnsentMetrics

logger = logging.getLogger(__name__)

METRICS_PER_REQUEST = 1000  # MLflow's limit for log_batch
MAX_SHOWN = 200  # characters of an error in the log; those of a lost connection have many more
HTTP_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
PERMANENT_ERRORS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"})


FOLLOW_UP_TIMEOUT_S = 30.0

FollowUp = Callable[[MlflowClient], None]
"""Work for the tracker that comes after the metrics; may raise."""


def limit_retries() -> None:
    """Let MLflow repeat a failing request once, instead of for minutes."""
    os.environ.setdefault(HTTP_RETRIES, "1")


def _lacks_run(error: MlflowException) -> bool:
    """Return whether MLflow refuses all metrics of a run, because someone has deleted it."""
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or "'active' state" in str(error)


class MetricSink:
    """Buffers the metrics of one run and delivers them from a background thread.

    Args:
        uri: MLflow tracking URI.
        run_id: the run they belong to.
        unsent: the file that keeps metrics while the tracker is unavailable; None keeps them in
            memory only.
        follow_up: called in the thread once everything is delivered, after each
            `request_follow_up` and when the tracker is available again. What it raises is logged.
        retry_s: pause between attempts while the tracker is unavailable, seconds.
        capacity: maximum number of waiting metrics; beyond it the oldest are dropped and counted.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        *,
        unsent: UnsentMetrics | None = None,
        follow_up: FollowUp | None = None,
        retry_s: float = 5.0,
        capacity: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        limit_retries()  # the sink would not know for minutes that a request fails
        self.uri = uri
        self.run_id = run_id
        self.delivered = 0
        self.dropped = 0
        self.refused: list[Metric] = []
        """Those of the dropped metrics that MLflow has refused; they stay in the file."""
        self.failed_attempts = 0
        self._unsent = unsent
        self._follow_up = follow_up
        self._follow_up_due = False
        self._is_following_up = False
        self._retry_s = retry_s
        self._capacity = capacity
        self._batch_size = METRICS_PER_REQUEST
        self._clock = clock
        self._waiting: deque[Metric] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._restored = False
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
        """Wait until everything is delivered; return the number of metrics that are not.

        Those are kept in the file, if there is one.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._retry_now = True
            self._changed.notify_all()
            while self._is_busy() and (remaining_s := deadline - time.monotonic()) > 0:
                self._changed.wait(remaining_s)
            waiting = list(self._waiting)
        if self._restored:
            self._keep_or_clear(waiting)
        return len(waiting)

    def _keep_or_clear(self, waiting: Sequence[Metric]) -> None:
        """Write into the file what MLflow does not have, or delete it."""
        if self._unsent is None:
            return
        if kept := [*self.refused, *waiting]:
            self._unsent.keep(kept)
        else:
            self._unsent.clear()

    def request_follow_up(self) -> None:
        """Call the follow-up once everything is delivered; return at once."""
        with self._changed:
            self._follow_up_due = self._follow_up is not None
            self._changed.notify_all()

    def close(self, timeout_s: float = 60.0) -> None:
        """Flush, end the thread, and log how many metrics are kept or lost, if any."""
        undelivered = self.flush(timeout_s)
        with self._changed:
            if not undelivered:
                self._changed.wait_for(self._has_followed_up, FOLLOW_UP_TIMEOUT_S)
            self._closed = True
            self._changed.notify_all()
        missing = undelivered + len(self.refused)
        kept = missing if self._unsent is not None and self._unsent.is_kept else 0
        if kept and self._unsent is not None:
            logger.warning(
                "MLflow run %s: %d metrics could not be delivered; they are kept in %s, and the "
                "same job sends them when it is started again",
                self.run_id,
                kept,
                self._unsent.url,
            )
        lost = undelivered + self.dropped - kept
        if lost:
            logger.error(
                "MLflow run %s: %d metrics were never delivered (%d delivered)",
                self.run_id,
                lost,
                self.delivered,
            )

    def _run(self) -> None:
        client: MlflowClient | None = None
        self._restore()
        while (batch := self._next_batch()) is not None:
            try:
                # Created here because a client of a new or missing store may block or raise.
                client = client or MlflowClient(tracking_uri=self.uri)
                if not batch:
                    self._run_follow_up(client)
                    continue
                client.log_batch(self.run_id, metrics=batch, synchronous=True)
            except MlflowException as error:
                if error.error_code not in PERMANENT_ERRORS:
                    self._pause(error)
                elif len(batch) == 1 or _lacks_run(error):
                    self._drop_refused(batch, error)
                else:  # one metric that is refused must not take the others with it
                    self._batch_size = len(batch) // 2
            except Exception as error:  # no failure of the tracker may stop training
                self._pause(error)
            else:
                self._count_delivered(batch)

    def _is_busy(self) -> bool:
        return bool(self._waiting) or not self._restored

    def _restore(self) -> None:
        """Queue what an earlier process could not deliver, before the new metrics."""
        if self._unsent is not None and (kept := self._unsent.restore()):
            logger.info(
                "MLflow run %s: sending %d metrics that an earlier job could not deliver",
                self.run_id,
                len(kept),
            )
            with self._changed:
                self._waiting.extendleft(reversed(kept))
        with self._changed:
            self._restored = True
            self._changed.notify_all()

    def _has_followed_up(self) -> bool:
        return not self._follow_up_due and not self._is_following_up

    def _run_follow_up(self, client: MlflowClient) -> None:
        with self._changed:  # a request from now on is for the next time
            self._follow_up_due, self._is_following_up = False, True
        try:
            if self._follow_up is not None:
                self._follow_up(client)
        except Exception as error:  # no failure of the tracker may stop training
            logger.warning(
                "MLflow run %s lacks something until the next attempt (%s: %s)",
                self.run_id,
                type(error).__name__,
                next(iter(str(error).splitlines()), "")[:MAX_SHOWN],
            )
        with self._changed:
            self._is_following_up = False
            self._changed.notify_all()

    def _next_batch(self) -> list[Metric] | None:
        """Return what to deliver next, nothing for the follow-up; None at the end."""
        with self._changed:
            while not self._waiting:
                if self._follow_up_due:
                    return []
                if self._closed:
                    return None
                self._changed.wait()
            if self._closed and self.failed_attempts:
                return None  # the last flush has already given up
            return [self._waiting[n] for n in range(min(len(self._waiting), self._batch_size))]

    def _count_delivered(self, batch: list[Metric]) -> None:
        with self._changed:
            self._remove(batch)
            self.delivered += len(batch)
            self._batch_size = min(METRICS_PER_REQUEST, 2 * self._batch_size)
            waiting = len(self._waiting)
            if self.failed_attempts:
                logger.warning(
                    "MLflow is available again after %d failed attempts; %d metrics are waiting",
                    self.failed_attempts,
                    waiting,
                )
                self.failed_attempts = 0
                self._follow_up_due = self._follow_up is not None
        if not waiting:
            self._keep_or_clear([])

    def _drop_refused(self, batch: list[Metric], error: MlflowException) -> None:
        with self._changed:
            self._remove(batch)
            self.dropped += len(batch)
            if self._unsent is not None:
                self.refused = [*self.refused, *batch][-self._capacity :]
            logger.error("MLflow refused %d metrics of run %s: %s", len(batch), self.run_id, error)

    def _remove(self, batch: list[Metric]) -> None:
        """Take ``batch`` from the queue; the caller holds the lock until all is counted.

        Otherwise ``flush`` may return between the removal and the count.
        """
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
                next(iter(str(error).splitlines()), "")[:MAX_SHOWN],
            )
        self.failed_attempts += 1
        if self._unsent is not None:
            with self._changed:
                waiting = list(self._waiting)
            self._unsent.keep_now_and_then([*self.refused, *waiting])
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._retry_now, self._retry_s)
            self._retry_now = False
