"""How long a sweep has run, over all submissions, and whether ``sweep.max_hours`` are over."""

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.sweep.trial import sweep_folder

_CLOCK_FILE = "clock.json"
_SAVE_EVERY_S = 15.0


class SweepClock(tune.Stopper):  # type: ignore[misc]
    """Counts the time of a sweep and stops all trials at ``sweep.max_hours``.

    Args:
        config: the sweep's settings.
        clock: returns seconds from any origin.
    """

    def __init__(self, config: RunConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = storage.join(sweep_folder(config), _CLOCK_FILE)
        self._max_s = None if config.sweep.max_hours is None else config.sweep.max_hours * 3600
        self._clock = clock
        earlier = storage.read_json(self._url)["seconds"] if storage.exists(self._url) else 0.0
        self._started_s = clock() - float(earlier)
        self._saved_s = float(earlier)

    @property
    def seconds(self) -> float:
        """Seconds that the sweep has run, all submissions together."""
        return self._clock() - self._started_s

    @property
    def is_over(self) -> bool:
        """Whether ``sweep.max_hours`` are over."""
        return self._max_s is not None and self.seconds >= self._max_s

    def save(self) -> None:
        """Write the time, for later submissions."""
        self._saved_s = self.seconds
        storage.write_json(self._url, {"seconds": self._saved_s})

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a single trial should stop: never."""
        return False

    def stop_all(self) -> bool:
        """Return whether all trials should stop; Ray Tune asks again and again."""
        if self.seconds - self._saved_s >= _SAVE_EVERY_S:
            self.save()
        return self.is_over
