"""Run the stages of a chain that must run; those that do not depend on each other in parallel."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.chain.assessment import Assessment, assess
from pipeline.chain.failures import (
    StageError,
    StageFailure,
    describe_failure,
    one_line,
)
from pipeline.chain.selection import Selection
from pipeline.chain.stage import Facts, Outcome, Stage, StageRecord
from pipeline.chain.stages import chain_stages, stage_config
from pipeline.chain.start_checks import check_start
from pipeline.chain.state import (
    StageState,
    new_state,
    stages_url,
    user_name,
    write_chain_state,
    write_stage_state,
)
from pipeline.chain.task import log_url, run_stage
from pipeline.config import RunConfig
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.track.promotion_record import RegisteredVersion, check_promoted

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_CANCEL_GRACE_S = 20.0
_ALL_STAGES = Selection()


def run_chain(config: RunConfig, selection: Selection = _ALL_STAGES) -> Iterator[StageRecord]:
    """Run the selected stages that are not up to date.

    Yields:
        The record of each selected stage, as soon as it is finished or found finished.

    Raises:
        ConfigError: a setting of a late stage is wrong; nothing was started.
        StageError: a stage failed; finished stages are kept.
        NotPromotedError: the version is not the champion, and the settings demand it.
        FolderInUseError: another chain runs in this output.
    """
    stages = chain_stages(config)
    selected = selection.names(stages)
    check_start(config, selected)
    state = new_state(config, str(selection))
    with exclusive_use(stages_url(config.output), f"the chain {config.name} of {user_name()}"):
        write_chain_state(config.output, state)
        try:
            yield from _ChainRun(config, stages, selected).run()
        except BaseException as error:
            message = one_line(str(error)) or type(error).__name__
            failed = replace(state, state="failed", ended=time.time(), message=message)
            write_chain_state(config.output, failed)
            raise
        write_chain_state(config.output, replace(state, state="done", ended=time.time()))


@dataclass
class _Attempt:
    """A stage that is running, or waits for its next attempt."""

    stage: Stage
    facts: Facts
    number: int = 1
    task: Any = None
    deadline: float | None = None
    not_before: float = 0.0


class _ChainRun:
    """The progress of one run of a chain."""

    def __init__(self, config: RunConfig, stages: Sequence[Stage], selected: Sequence[str]) -> None:
        self._config = config
        self._outcomes: dict[str, Outcome] = {}
        self._waiting = [stage for stage in stages if stage.name in selected]
        self._active: list[_Attempt] = []
        self._stages = stages
        self._selected = selected

    def run(self) -> Iterator[StageRecord]:
        """Yield the record of each selected stage."""
        self._use_earlier_results()
        try:
            while self._waiting or self._active:
                for records in (self._start_what_is_ready(), self._collect()):
                    for record in records:
                        yield record
                        self._check(record)
        except BaseException:
            self._cancel_all()
            raise

    def _use_earlier_results(self) -> None:
        """Take the results of stages before the first selected one as they are."""
        first = [stage.name for stage in self._stages].index(self._selected[0])
        for stage in self._stages[:first]:
            found = assess(stage, self._settings_of(stage), self._outcomes)
            if found.earlier is None:
                message = f"{found.reason}; run the chain without --from"
                failure = StageFailure("lasting", message)
                raise StageError(stage.name, failure, log_url(self._config.output, stage.name))
            if found.record is None:
                logger.warning(
                    "the result of stage %s is used although it is out of date: %s",
                    *(stage.name, found.reason),
                )
            self._outcomes[stage.name] = found.earlier.outcome

    def _settings_of(self, stage: Stage) -> RunConfig:
        return stage_config(self._config, stage, self._outcomes)

    def _start_what_is_ready(self) -> Iterator[StageRecord]:
        for stage in list(self._waiting):
            if not all(name in self._outcomes for name in stage.depends_on):
                continue
            self._waiting.remove(stage)
            try:
                found = assess(stage, self._settings_of(stage), self._outcomes)
            except Exception as error:
                raise self._stage_error(stage, describe_failure(error)) from error
            if found.record is not None:
                yield self._finish(replace(found.record, skipped=True))
            else:
                self._begin(stage, found)

    def _begin(self, stage: Stage, found: Assessment) -> None:
        logger.info("stage %s runs: %s", stage.name, found.reason)
        attempt = _Attempt(stage, found.facts)
        self._active.append(attempt)
        self._submit(attempt)

    def _submit(self, attempt: _Attempt) -> None:
        name = attempt.stage.name
        # Reserves no CPU: a stage waits for workers that it starts, and they may need all CPUs.
        # Ray shows the name of a task before each line of its log.
        task = ray.remote(num_cpus=0, max_retries=0)(run_stage).options(name=name)
        attempt.task = task.remote(name, self._config, attempt.facts, self._outcomes)
        hours = self._config.chain.timeout_hours.get(name)  # type: ignore[call-overload]
        attempt.deadline = None if hours is None else time.monotonic() + 3600 * hours
        self._write_state(attempt, "running")

    def _collect(self) -> Iterator[StageRecord]:
        """Wait a moment, and yield the records of stages that ended meanwhile."""
        now = time.monotonic()
        for attempt in self._active:
            if attempt.task is None and attempt.not_before <= now:
                self._submit(attempt)
        running = [attempt.task for attempt in self._active if attempt.task is not None]
        if not running:
            if self._active:
                time.sleep(min(_POLL_S, max(0.0, self._active[0].not_before - now)))
            return
        deadlines = [each.deadline for each in self._active if each.deadline is not None]
        pause_s = max(0.0, min([_POLL_S, *(deadline - now for deadline in deadlines)]))
        done, _ = ray.wait(running, timeout=pause_s)
        for attempt in list(self._active):
            if attempt.task is not None and attempt.task in done:
                yield from self._conclude(attempt)
            elif attempt.deadline is not None and time.monotonic() > attempt.deadline:
                self._stop(attempt)

    def _conclude(self, attempt: _Attempt) -> Iterator[StageRecord]:
        try:
            result: StageRecord | StageFailure = ray.get(attempt.task)
        except RayError as error:
            result = describe_failure(error)
        attempt.task = None
        if isinstance(result, StageFailure):
            self._fail_or_retry(attempt, result)
            return
        self._active.remove(attempt)
        self._write_state(attempt, "done")
        yield self._finish(result)

    def _check(self, record: StageRecord) -> None:
        if record.stage == "register":
            check_promoted(self._config, RegisteredVersion(**record.outcome))

    def _finish(self, record: StageRecord) -> StageRecord:
        self._outcomes[record.stage] = record.outcome
        return record

    def _fail_or_retry(self, attempt: _Attempt, failure: StageFailure) -> None:
        settings = self._config.chain
        if failure.kind not in ("transient", "in_use") or attempt.number > settings.retries:
            self._write_state(attempt, "failed", failure.message)
            raise self._stage_error(attempt.stage, failure)
        pause_s = settings.retry_pause_s * 2 ** (attempt.number - 1)
        logger.warning(
            "stage %s failed: %s; trying again in %g s (retry %d of %d)",
            *(attempt.stage.name, failure.message, pause_s, attempt.number, settings.retries),
        )
        self._write_state(attempt, "waiting", failure.message)
        attempt.number += 1
        attempt.not_before = time.monotonic() + pause_s

    def _stage_error(self, stage: Stage, failure: StageFailure) -> StageError:
        return StageError(stage.name, failure, log_url(self._config.output, stage.name))

    def _stop(self, attempt: _Attempt) -> None:
        """Stop a stage that took too long, and raise."""
        name = attempt.stage.name
        hours = self._config.chain.timeout_hours[name]  # type: ignore[index]
        message = (
            f"it ran longer than chain.timeout_hours.{name}={hours:g} and was stopped; start the "
            "chain again to continue it, with more time if it needs it"
        )
        self._active.remove(attempt)
        _cancel([attempt.task])
        self._write_state(attempt, "failed", message)
        raise self._stage_error(attempt.stage, StageFailure("lasting", message))

    def _cancel_all(self) -> None:
        tasks = [attempt.task for attempt in self._active if attempt.task is not None]
        if tasks and ray.is_initialized():
            _cancel(tasks)

    def _write_state(self, attempt: _Attempt, state: Any, message: str = "") -> None:
        written = StageState(state, attempt.number, time.time(), message)
        write_stage_state(self._config.output, attempt.stage.name, written)


def _cancel(tasks: Sequence[Any]) -> None:
    """Interrupt tasks as Ctrl-C would, so that they clean up; kill those that do not end."""
    for task in tasks:
        ray.cancel(task, force=False, recursive=True)
    _, running = ray.wait(list(tasks), num_returns=len(tasks), timeout=_CANCEL_GRACE_S)
    for task in running:
        ray.cancel(task, force=True, recursive=True)
