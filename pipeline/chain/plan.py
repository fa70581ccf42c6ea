"""What a chain would do and how far it is, without running or changing anything."""

import time
from dataclasses import dataclass
from typing import Literal

import pyarrow.fs

from pipeline import storage
from pipeline.chain.assessment import assess
from pipeline.chain.selection import Selection
from pipeline.chain.stage import Outcome, Stage, StageRecord
from pipeline.chain.stages import chain_stages, stage_config
from pipeline.chain.state import (
    ChainState,
    StageState,
    read_chain_state,
    read_stage_state,
    stages_url,
)
from pipeline.chain.task import log_url
from pipeline.config import RunConfig
from pipeline.storage.exclusive_use import BEAT_S, OWNER_FILE

Verdict = Literal["up to date", "runs", "may run", "not selected", "not checked", "missing"]

_ALL_STAGES = Selection()
# A chain shows every BEAT_S that it lives; a busy store or another clock may delay that.
_DEAD_AFTER_S = 6 * BEAT_S


@dataclass(frozen=True)
class PlannedStage:
    """What a chain would do with a stage, and why.

    Args:
        name: name of the stage.
        verdict: ``may run`` if it depends on the result of a stage that runs.
        reason: why.
        record: its readable record, even if it is out of date.
    """

    name: str
    verdict: Verdict
    reason: str
    record: StageRecord | None


@dataclass(frozen=True)
class StageStatus:
    """The progress of a stage.

    Args:
        planned: what a chain would do with it now.
        state: what a running or ended chain said about it last.
        is_running: whether it runs now, or waits for its next attempt.
        log_url: where its log is.
    """

    planned: PlannedStage
    state: StageState | None
    is_running: bool
    log_url: str


@dataclass(frozen=True)
class ChainStatus:
    """The progress of a chain.

    Args:
        chain: the state of the last chain in this output; None without one.
        is_alive: whether it runs now.
        stages: all stages, in order.
    """

    chain: ChainState | None
    is_alive: bool
    stages: tuple[StageStatus, ...]


def plan_chain(config: RunConfig, selection: Selection = _ALL_STAGES) -> list[PlannedStage]:
    """Return what a chain would do with each stage.

    Raises:
        ConfigError: the selection names no stage.
        StorageError: a record or a source cannot be read.
    """
    stages = chain_stages(config)
    selected = selection.names(stages)
    first = [stage.name for stage in stages].index(selected[0])
    outcomes: dict[str, Outcome] = {}
    unknown: set[str] = set()  # stages whose result is not known before they have run
    planned = []
    for index, stage in enumerate(stages):
        waits_for = [name for name in stage.depends_on if name in unknown]
        if waits_for:
            reason = f"it depends on what comes out of {' and '.join(waits_for)}"
            each = PlannedStage(stage.name, "may run", reason, None)
        else:
            each = _plan_stage(stage, config, outcomes, is_taken=index < first)
        if each.verdict in ("runs", "may run", "missing"):
            unknown.add(stage.name)
        elif each.record is not None:
            outcomes[stage.name] = each.record.outcome
        if index >= first and stage.name not in selected:
            each = PlannedStage(stage.name, "not selected", "it is after --until", each.record)
        planned.append(each)
    return planned


def _plan_stage(
    stage: Stage, config: RunConfig, outcomes: dict[str, Outcome], is_taken: bool
) -> PlannedStage:
    found = assess(stage, stage_config(config, stage, outcomes), outcomes)
    if is_taken:
        reason = "it is before --from"
        if found.earlier is None:
            return PlannedStage(stage.name, "missing", f"{reason}, but {found.reason}", None)
        if found.record is None:
            reason += f"; out of date: {found.reason}"
        return PlannedStage(stage.name, "not checked", reason, found.earlier)
    verdict: Verdict = "runs" if found.record is None else "up to date"
    return PlannedStage(stage.name, verdict, found.reason, found.earlier)


def chain_status(config: RunConfig) -> ChainStatus:
    """Return the progress of the chain in the output, also of one that runs on another machine.

    Raises:
        StorageError: a record or a source cannot be read.
    """
    chain = read_chain_state(config.output)
    is_alive = chain is not None and chain.state == "running" and _shows_life(config.output)
    statuses = []
    for planned in plan_chain(config):
        state = read_stage_state(config.output, planned.name)
        is_current = state is not None and chain is not None and state.since >= chain.started
        is_running = bool(is_alive and is_current and state and state.state in _ACTIVE)
        url = log_url(config.output, planned.name)
        statuses.append(StageStatus(planned, state, is_running, url))
    return ChainStatus(chain, is_alive, tuple(statuses))


_ACTIVE = ("running", "waiting")


def _shows_life(output: str) -> bool:
    """Return whether the owner of the folder wrote its sign of life a short time ago."""
    store, path = storage.filesystem(storage.join(stages_url(output), OWNER_FILE))
    info = store.get_file_info(path)
    if info.type == pyarrow.fs.FileType.NotFound or info.mtime is None:
        return False
    return bool(time.time() - info.mtime.timestamp() < _DEAD_AFTER_S)
