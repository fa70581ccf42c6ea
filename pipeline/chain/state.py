"""The state of a running chain, for other terminals: who runs which stage since when.

``stages/chain.json`` has the state of the whole chain, ``stages/NAME/state.json`` that of a stage.
Both are written by the chain and only read for display: its record alone decides whether a stage is
up to date.
"""

import getpass
import logging
import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

from pipeline import storage
from pipeline.chain.stage import stage_folder
from pipeline.config import RunConfig
from pipeline.output_layout import STAGES_FOLDER
from pipeline.storage.records import parse_record

logger = logging.getLogger(__name__)

T = TypeVar("T")

STATE_FILE, CHAIN_FILE = "state.json", "chain.json"


@dataclass(frozen=True)
class StageState:
    """What a stage is doing. Field names are keys of ``state.json``.

    Args:
        state: ``running``, ``waiting`` for the next attempt, ``failed``, or ``done``.
        attempt: number of the attempt, from 1.
        since: seconds since the epoch.
        message: the error, of a failed or waiting stage.
    """

    state: Literal["running", "waiting", "failed", "done"]
    attempt: int
    since: float
    message: str = ""


@dataclass(frozen=True)
class ChainState:
    """The state of a chain. Field names are keys of ``chain.json``.

    Args:
        name: name of the run.
        owner: user, process and machine.
        selection: which stages take part.
        state: ``running``, ``done`` or ``failed``.
        started: seconds since the epoch.
        ended: likewise; None while it runs.
        message: why it failed.
    """

    name: str
    owner: str
    selection: str
    state: Literal["running", "done", "failed"]
    started: float
    ended: float | None = None
    message: str = ""


def stages_url(output: str) -> str:
    """Return the folder that a running chain owns."""
    return storage.join(output, STAGES_FOLDER)


def user_name() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return f"user {os.getuid()}"


def new_state(config: RunConfig, selection: str) -> ChainState:
    """Return the state of a chain that starts now."""
    owner = f"{user_name()}, process {os.getpid()} on {socket.gethostname()}"
    return ChainState(config.name, owner, selection, "running", time.time())


def write_chain_state(output: str, state: ChainState) -> None:
    """Write the state of the chain; only log what goes wrong."""
    _write(storage.join(output, STAGES_FOLDER, CHAIN_FILE), asdict(state))


def write_stage_state(output: str, stage: str, state: StageState) -> None:
    """Write the state of a stage; only log what goes wrong."""
    _write(storage.join(stage_folder(output, stage), STATE_FILE), asdict(state))


def read_chain_state(output: str) -> ChainState | None:
    """Return the state of the last chain; None without one."""
    return _read(storage.join(output, STAGES_FOLDER, CHAIN_FILE), ChainState)


def read_stage_state(output: str, stage: str) -> StageState | None:
    """Return the last state of a stage; None without one."""
    return _read(storage.join(stage_folder(output, stage), STATE_FILE), StageState)


def _write(url: str, document: dict[str, object]) -> None:
    try:
        storage.write_json(url, document)
    except storage.StorageError as error:  # display only; the stage itself would notice
        logger.warning("the state of the chain cannot be written: %s", error)


def _read(url: str, kind: type[T]) -> T | None:
    if not storage.exists(url):
        return None
    try:
        return parse_record(storage.read_json(url), kind, url, "it is only shown, and left out")
    except storage.DamagedRecordError as error:
        logger.warning("%s", error)
        return None
