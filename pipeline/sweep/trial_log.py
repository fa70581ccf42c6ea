"""Log how far a sweep is."""

import logging
import time
from typing import Any

from ray import tune

from pipeline.rates import format_duration
from pipeline.sweep.search_space import format_values

logger = logging.getLogger(__name__)


class TrialLog(tune.Callback):  # type: ignore[misc]
    """Logs a line as each trial starts and ends.

    Args:
        total: number of trials of the sweep.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._started_s = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log the values that the trial tries."""
        logger.info("trial %s starts: %s", trial, format_values(trial.config["values"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log how many trials have ended, and an estimate of the time left."""
        self._log("ended", trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log that a trial failed."""
        self._log("failed", trials, trial)

    def _log(self, what: str, trials: list[Any], trial: Any) -> None:
        # Ray changes the status of this trial only after it has called this.
        done = sum(other.is_finished() or other is trial for other in trials)
        elapsed_s = time.monotonic() - self._started_s
        left = format_duration(elapsed_s / done * (self.total - done))
        logger.info(
            "trial %s %s: %d of %d trials in %s, about %s left",
            trial,
            what,
            done,
            self.total,
            format_duration(elapsed_s),
            left,
        )
