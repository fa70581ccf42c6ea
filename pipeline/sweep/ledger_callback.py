"""Write what happens to the trials into the ledger, while Ray Tune runs them."""

import logging
import time
from dataclasses import replace
from typing import Any

from ray import tune

from pipeline.config import RunConfig
from pipeline.sweep.clock import SweepClock
from pipeline.sweep.ledger import Copy, TrialLedger, TrialRecord
from pipeline.sweep.population_trial import COPIED_FROM, COPIED_STEP
from pipeline.sweep.proposals import Proposals, reported_name
from pipeline.sweep.schedulers import IMAGES
from pipeline.sweep.trial import read_error, trial_config, trial_folder
from pipeline.sweep.trial_source import TrialSource
from pipeline.train.run_record import read_run_record
from pipeline.train.training_length import planned_steps

logger = logging.getLogger(__name__)

_LOST_AT_MOST = 2
_LOST = (
    "its process was lost {times} times: a machine went away, or its memory was full; see the log "
    "of Ray"
)


class LedgerCallback(tune.Callback):  # type: ignore[misc]
    """Keeps the ledger up to date.

    Args:
        config: the sweep's settings.
        ledger: its trials.
        source: starts lost trials again.
        proposed_by: is told how trials end.
        clock: tells trials that the scheduler has stopped from those whose time was over.
    """

    def __init__(
        self,
        config: RunConfig,
        ledger: TrialLedger,
        source: TrialSource,
        proposed_by: Proposals,
        clock: SweepClock,
    ) -> None:
        self._config, self._ledger = config, ledger
        self._source, self._proposed_by, self._clock = source, proposed_by, clock
        self._resumed_at: dict[str, float] = {}
        self._lost: dict[str, int] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note when a trial starts, and with which values: pbt may have changed them."""
        record = self._ledger.get(str(trial))
        self._resumed_at[record.trial_id] = time.monotonic() - record.seconds
        if record.values != trial.config["values"]:
            self._ledger.write(replace(record, values=dict(trial.config["values"])))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note the metrics of a trial."""
        record = self._timed(trial)
        metrics = {
            key: float(value) for key, value in result.items() if key.startswith(("train/", "val/"))
        }
        record = replace(
            record, steps=int(result.get("step", record.steps)), metrics=record.metrics | metrics
        )
        value = metrics.get(reported_name(self._config.sweep.metric))
        if value is not None and IMAGES in result:
            record = record.with_validation(int(result[IMAGES]), value)
        self._ledger.write(_with_copy(record, result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has ended, or was stopped; one whose time was over goes on later."""
        record = self._timed(trial)
        if has_finished(self._config, record):
            self._settle(replace(record, status="finished"))
        elif self._clock.is_over:
            self._ledger.write(record)
        else:
            self._settle(replace(record, status="stopped"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note why a trial has failed; one whose process was lost starts again."""
        record = self._timed(trial)
        error = read_error(self._config, record.trial_id)
        if error is None:
            lost = self._lost[record.trial_id] = self._lost.get(record.trial_id, 0) + 1
            if lost <= _LOST_AT_MOST:
                logger.warning("the process of trial %s was lost; it continues", record.trial_id)
                self._source.start_again(self._ledger.write(record))
                return
            error = _LOST.format(times=lost)
        logger.warning("trial %s failed: %s", record.trial_id, error)
        self._settle(replace(record, status="failed", error=error))

    def _timed(self, trial: Any) -> TrialRecord:
        record = self._ledger.get(str(trial))
        resumed_at = self._resumed_at.get(record.trial_id)
        if resumed_at is None:
            return record
        return replace(record, seconds=round(time.monotonic() - resumed_at, 1))

    def _settle(self, record: TrialRecord) -> None:
        self._proposed_by.observe(self._ledger.write(record))


def _with_copy(record: TrialRecord, result: dict[str, Any]) -> TrialRecord:
    """Return the record with the copy that a report of a population's member names."""
    if COPIED_FROM not in result:
        return record
    copy = Copy(int(result[COPIED_STEP]), str(result[COPIED_FROM]), record.values)
    return record if copy in record.copies else replace(record, copies=(*record.copies, copy))


def has_finished(config: RunConfig, record: TrialRecord) -> bool:
    """Return whether a trial has taken all its steps, or ended early by itself (patience)."""
    own = trial_config(config, record.values, record.trial_id)
    training = read_run_record(trial_folder(config, record.trial_id))
    has_result = training is not None and training.result is not None
    return has_result or record.steps >= planned_steps(own)
