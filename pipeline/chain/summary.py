"""Tables of a chain as text: what it will do, how far it is, and what it did."""

import time
from collections.abc import Iterable, Sequence

from pipeline.chain.plan import ChainStatus, PlannedStage, StageStatus
from pipeline.chain.stage import Outcome, StageRecord
from pipeline.rates import format_duration

_LINK_KEYS = ("report_url", "shards", "checkpoint_url", "best_config_url", "output_url")


def plan_table(planned: Sequence[PlannedStage]) -> str:
    """Return one line per stage: what would happen, and why."""
    return _table([(each.name, each.verdict, each.reason) for each in planned])


def status_table(status: ChainStatus, now: float) -> str:
    """Return the state of a chain and of its stages.

    Args:
        status: progress of the chain.
        now: seconds since the epoch.
    """
    lines = [(each.planned.name, *_stage_status(each, status, now)) for each in status.stages]
    return f"{_chain_line(status, now)}\n{_table(lines)}"


def summary_table(records: Iterable[StageRecord]) -> str:
    """Return one line per stage: what was done, how long it took, and its main result."""
    lines = []
    for record in records:
        state = "up to date" if record.skipped else "done"
        seconds = format_duration(record.seconds)
        lines.append((record.stage, state, seconds, main_result(record.outcome)))
    return _table(lines)


def main_result(outcome: Outcome) -> str:
    """Return the URL of a stage's main output, or of a registration the version."""
    if "version" in outcome:
        return f"models:/{outcome['name']}/{outcome['version']}"
    return next((str(outcome[key]) for key in _LINK_KEYS if outcome.get(key)), "")


def _chain_line(status: ChainStatus, now: float) -> str:
    chain = status.chain
    if chain is None:
        return "no chain has run in this output yet"
    since = format_duration(max(0.0, now - chain.started))
    head = f"chain {chain.name} ({chain.selection}), {chain.owner}"
    if status.is_alive:
        return f"{head}: running since {since}"
    if chain.state == "running":
        return f"{head}: it ended without a word; start it again, and it continues"
    ended = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(chain.ended or chain.started))
    return f"{head}: {chain.state} at {ended}" + (f": {chain.message}" if chain.message else "")


def stage_state(each: StageStatus, status: ChainStatus) -> tuple[str, str]:
    """Return the state of a stage in a word, and what there is to say about it."""
    state, planned = each.state, each.planned
    if each.is_running and state is not None:
        attempt = f"attempt {state.attempt}"
        return state.state, f"{attempt}, after: {state.message}" if state.message else attempt
    if planned.verdict == "up to date" and planned.record is not None:
        return "finished", main_result(planned.record.outcome)
    if state is not None and state.state == "failed":
        return "failed", state.message
    if state is not None and state.state != "done" and not status.is_alive:
        return "interrupted", "it runs again when the chain is started again"
    return planned.verdict, planned.reason


def _stage_status(each: StageStatus, status: ChainStatus, now: float) -> tuple[str, str, str]:
    """Return state, duration and explanation of a stage."""
    word, note = stage_state(each, status)
    if each.is_running and each.state is not None:
        duration = format_duration(max(0.0, now - each.state.since))
    else:
        record = each.planned.record
        duration = "" if record is None else format_duration(record.seconds)
    if word in ("running", "waiting", "failed", "interrupted"):
        note += f" (log: {each.log_url})"
    return word, duration, note


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align all columns but the last."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join(
            (*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])
        ).rstrip()
        for row in rows
    )
