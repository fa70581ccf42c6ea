"""A file of the metrics that MLflow has not yet accepted, in the output folder of the training."""

import json
import logging
import time
from collections.abc import Callable, Sequence

from mlflow.entities import Metric

from pipeline import storage

logger = logging.getLogger(__name__)

KEEP_EVERY_S = 20.0
"""While the tracker is unavailable, the file is at most this much older than the queue."""

DAMAGED_PREFIX = "damaged-"
"""How the name of a file begins that cannot be read."""


class UnsentMetrics:
    """Keeps metrics in a file until they are delivered. Never raises: it must not end a training.

    Args:
        url: the file; it exists only while metrics wait.
        clock: returns seconds from any origin.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.is_kept = False
        """Whether the file has what the last call was given."""
        self.damaged_url: str | None = None
        """Where `restore` has moved a damaged file."""
        self._clock = clock
        self._kept_at_s: float | None = None

    def exists(self) -> bool:
        """Return whether metrics wait in the file; False if that cannot be found out."""
        try:
            return storage.exists(self.url)
        except OSError as error:
            logger.warning("metrics kept in %s cannot be read now: %s", self.url, error)
            return False

    def keep(self, metrics: Sequence[Metric]) -> None:
        """Write the metrics, in place of what the file had; atomic."""
        self._kept_at_s = self._clock()
        lines = (json.dumps([each.key, each.value, each.timestamp, each.step]) for each in metrics)
        try:
            storage.write_bytes(self.url, "\n".join(lines).encode())
            self.is_kept = True
        except OSError as error:
            self.is_kept = False
            logger.warning("metrics for MLflow cannot be kept in %s: %s", self.url, error)

    def keep_now_and_then(self, metrics: Sequence[Metric]) -> None:
        """Write the metrics if the file is older than `KEEP_EVERY_S`."""
        if self._kept_at_s is None or self._clock() - self._kept_at_s >= KEEP_EVERY_S:
            self.keep(metrics)

    def restore(self) -> list[Metric]:
        """Return the metrics in the file; a damaged file is renamed, with a warning."""
        try:
            if not self.exists():
                return []
            lines = storage.read_bytes(self.url).decode().splitlines()
            metrics = [_metric(line) for line in lines]
        except OSError as error:
            logger.warning("metrics kept in %s cannot be read now: %s", self.url, error)
            return []
        except (ValueError, TypeError) as error:
            self._set_aside(error)
            return []
        self.is_kept = True
        return metrics

    def _set_aside(self, error: Exception) -> None:
        folder, _, name = self.url.rpartition("/")
        aside = storage.join(folder, f"{DAMAGED_PREFIX}{name}")
        self.damaged_url = aside
        try:
            storage.write_bytes(aside, storage.read_bytes(self.url))
            storage.delete(self.url)
        except OSError as failure:
            self.damaged_url = self.url
            logger.warning("%s cannot be renamed: %s", self.url, failure)
        logger.warning(
            "%s is damaged (%s); the metrics in it are not sent to MLflow. It is now %s",
            self.url,
            error,
            self.damaged_url,
        )

    def clear(self) -> None:
        """Delete the file, once everything is delivered."""
        if not self.is_kept:
            return
        try:
            storage.delete(self.url)
            self.is_kept = False
        except OSError as error:
            logger.warning("%s is delivered but cannot be deleted: %s", self.url, error)


def _metric(line: str) -> Metric:
    key, value, timestamp, step = json.loads(line)
    return Metric(str(key), float(value), int(timestamp), int(step))
