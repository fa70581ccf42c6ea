"""Decide whether a stage is up to date or must run, and say why."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.chain.stage import Facts, Outcome, Stage, StageRecord, read_record
from pipeline.config import RunConfig, digest_of
from pipeline.output_layout import to_portable
from pipeline.storage.versions import file_versions

_SHOWN_CHANGES = 3


@dataclass(frozen=True)
class Assessment:
    """Whether a stage is up to date.

    Args:
        facts: what its result would depend on if it ran now.
        record: its record, if it is up to date; None if it must run.
        earlier: its readable record, even if it is out of date.
        reason: why it must run, or that it is up to date.
    """

    facts: Facts
    record: StageRecord | None
    earlier: StageRecord | None
    reason: str


def assess(stage: Stage, config: RunConfig, outcomes: Mapping[str, Outcome]) -> Assessment:
    """Compare the record of a stage with the present settings, inputs, sources and outputs.

    Args:
        stage: the stage.
        config: settings of the stage.
        outcomes: of the stages it depends on.

    Raises:
        StorageError: the record or a source cannot be read.
    """
    facts = present_facts(stage, config, outcomes)
    try:
        record = read_record(config.output, stage.name)
    except storage.DamagedRecordError as error:
        return Assessment(facts, None, None, str(error))
    if record is None:
        return Assessment(facts, None, None, "it has not been finished yet")
    reason = (
        _changes(record.facts, facts)
        or _missing_output(stage, record.outcome)
        or stage.why_outdated(config, record.outcome)
    )
    if reason is not None:
        return Assessment(facts, None, record, reason)
    return Assessment(facts, record, record, "up to date")


def present_facts(stage: Stage, config: RunConfig, outcomes: Mapping[str, Outcome]) -> Facts:
    """Return what the result of a stage depends on now."""
    tree = config.model_dump(mode="json")
    inputs = {
        f"{name}.{key}": outcomes[name].get(key)
        for name, keys in stage.inputs.items()
        for key in keys
    }
    versions = {
        url: version
        for source in stage.sources(config)
        for url, version in file_versions(source).items()
    }
    portable = to_portable(versions_document(versions), config.output)
    return Facts(
        settings=to_portable({key: _lookup(tree, key) for key in stage.settings}, config.output),
        inputs=to_portable(inputs, config.output),
        sources=digest_of(portable) if versions else "",
        source_files=len(versions),
    )


def versions_document(versions: Mapping[str, str]) -> list[list[str]]:
    """Return file versions in a form whose URLs `to_portable` can replace."""
    return [[url, version] for url, version in sorted(versions.items())]


def _lookup(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if tree is None:
            return None
        tree = tree[part]
    return tree


def _changes(before: Facts, now: Facts) -> str | None:
    """Return in words what differs between two sets of facts; None if nothing does."""
    if settings := _differences(_flat(before.settings), _flat(now.settings)):
        return f"its settings changed ({settings})"
    if inputs := _differences(before.inputs, now.inputs):
        return f"its inputs changed ({inputs})"
    if before.sources != now.sources:
        counts = f"{before.source_files} files then, {now.source_files} now"
        return f"its source files changed ({counts})"
    return None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.") or {f"{prefix}{key}": {}}
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = [
        f"{key}: {_short(before.get(key))} -> {_short(now.get(key))}"
        for key in sorted({*before, *now})
        if _text(before.get(key)) != _text(now.get(key))
    ]
    more = len(changed) - _SHOWN_CHANGES
    return ", ".join(changed[:_SHOWN_CHANGES]) + (f" and {more} more" if more > 0 else "")


def _text(value: Any) -> str:
    """Return a value as canonical JSON, in which lists equal tuples and NaN equals NaN."""
    return json.dumps(value, sort_keys=True, default=str)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _missing_output(stage: Stage, outcome: Outcome) -> str | None:
    """Return which output is gone; someone may have deleted it."""
    for key in stage.outputs:
        url = outcome.get(key)
        if not isinstance(url, str) or not storage.exists(url):
            return f"its output {url} is gone"
    return None
