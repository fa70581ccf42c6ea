"""A stage of the chain, what it declares, and the record that it leaves when it is finished.

The record is ``{output}/stages/NAME/_SUCCESS.json``, written last. A stage is up to date while its
settings, its inputs and its sources are those of the record and its outputs are there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import STAGES_FOLDER, from_portable, to_portable
from pipeline.storage.records import parse_record

Outcome = dict[str, Any]
"""The outputs of a stage as plain values: URLs, digests, counts and metrics."""

SUCCESS_FILE = "_SUCCESS.json"


def _no_sources(_config: RunConfig) -> Sequence[str]:
    return ()


def _never_outdated(_config: RunConfig, _outcome: Outcome) -> str | None:
    return None


@dataclass(frozen=True)
class Stage:
    """One job of the chain.

    Args:
        name: name of the stage and of its folder.
        run: does the work; is given the outcomes of all earlier stages by name, and returns its
            own.
        settings: dotted keys of the configuration, or sections, that its result depends on.
        inputs: earlier stage -> the keys of its outcome that the result depends on.
        after: earlier stages that must be finished, although the result does not depend on them.
        outputs: keys of the outcome that hold URLs of files that must still exist.
        sources: returns the URLs of files from outside of the chain that the result depends on.
        why_outdated: returns why a finished stage must run again, for what the other fields cannot
            say; None if nothing is wrong.
    """

    name: str
    run: Callable[[RunConfig, Mapping[str, Outcome]], Outcome]
    settings: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    sources: Callable[[RunConfig], Sequence[str]] = _no_sources
    why_outdated: Callable[[RunConfig, Outcome], str | None] = _never_outdated

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The stages that must be finished before this one starts."""
        return tuple(dict.fromkeys((*self.inputs, *self.after)))


@dataclass(frozen=True)
class Facts:
    """What the result of a stage depends on. Two runs with equal facts have the same result.

    Args:
        settings: dotted key -> value.
        inputs: ``stage.key`` -> value.
        sources: digest of the names and versions of the source files; empty without any.
        source_files: their number, for messages.
    """

    settings: dict[str, Any]
    inputs: dict[str, Any]
    sources: str = ""
    source_files: int = 0


@dataclass(frozen=True)
class StageRecord:
    """A finished stage. Field names are keys of ``_SUCCESS.json``.

    Args:
        stage: name of the stage.
        facts: what the result depends on.
        outcome: the result.
        seconds: how long it took.
        finished: when it ended, UTC.
        skipped: whether the chain only found it finished.
    """

    stage: str
    facts: Facts
    outcome: Outcome
    seconds: float
    finished: str = ""
    skipped: bool = False


def stage_folder(output: str, stage: str) -> str:
    """Return the URL of the folder with a stage's record, state and log."""
    return storage.join(output, STAGES_FOLDER, stage)


def write_record(output: str, record: StageRecord) -> None:
    """Write the record of a finished stage, which must be the last thing it does."""
    url = storage.join(stage_folder(output, record.stage), SUCCESS_FILE)
    storage.write_json(url, to_portable(asdict(record), output))


def read_record(output: str, stage: str) -> StageRecord | None:
    """Return the record of a stage; None if the stage was never finished.

    Raises:
        DamagedRecordError: the file is not the record of a stage.
    """
    url = storage.join(stage_folder(output, stage), SUCCESS_FILE)
    if not storage.exists(url):
        return None
    document = storage.read_json(url)
    if isinstance(document, dict):
        # The facts are compared as they are in the file, with a mark for the output folder.
        document["outcome"] = from_portable(document.get("outcome"), output)
    return parse_record(document, StageRecord, url, "the stage runs again")
