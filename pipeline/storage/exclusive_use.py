"""Keep two jobs from writing to one folder at the same time.

The job that uses a folder keeps ``owner.json`` in it: who it is, and a count that it raises every
few seconds. A job of this machine that is dead is recognized at once; one of another machine when
its count stands still. No file lock: object stores have none, and network file systems unreliable
ones.
"""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from pipeline.storage.files import delete, exists, read_json, write_json
from pipeline.storage.retries import StorageError
from pipeline.storage.urls import join

logger = logging.getLogger(__name__)

OWNER_FILE = "owner.json"
BEAT_S = 10.0


class FolderInUseError(StorageError):
    """Another job is using the folder; the message names it."""


@dataclass(frozen=True)
class Owner:
    """A job that uses a folder. The field names are the keys in the file.

    Args:
        token: unique to this use.
        job: what the job does, for messages.
        machine: identifies the machine, or the container.
        host: name of the machine, for messages.
        pid: its process id there.
        started: start of that process, seconds since the epoch; process ids are used again.
        beats: raised every `BEAT_S` seconds.
    """

    token: str
    job: str
    machine: str
    host: str
    pid: int
    started: float
    beats: int = 0

    @classmethod
    def of_this_process(cls, job: str) -> "Owner":
        """Return this process as an owner."""
        process = psutil.Process()
        return cls(
            token=uuid.uuid4().hex,
            job=job,
            machine=_machine(),
            host=socket.gethostname(),
            pid=process.pid,
            started=process.create_time(),
        )

    def __str__(self) -> str:
        return f"{self.job}, process {self.pid} on {self.host}"


@contextmanager
def exclusive_use(folder: str, job: str, beat_s: float = BEAT_S) -> Iterator[None]:
    """Keep other jobs out of a folder while the block runs.

    Args:
        folder: URL of the folder.
        job: what the job does, for messages, such as "training".
        beat_s: seconds between signs of life.

    Raises:
        FolderInUseError: another job is using the folder.
    """
    url = join(folder, OWNER_FILE)
    own = Owner.of_this_process(job)
    _take(url, folder, own, beat_s)
    ended = threading.Event()
    thread = threading.Thread(
        target=_keep_alive, args=(url, own, beat_s, ended), name="owner", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _release(url, own)


def _take(url: str, folder: str, own: Owner, beat_s: float) -> None:
    """Write the owner's file, unless a living job has its own there."""
    other = _read(url)
    if other is not None:
        if _is_alive(url, other, own, beat_s):
            raise FolderInUseError(
                f"{folder} is in use by another job ({other}). Wait for it to end, stop it, or "
                "choose another output"
            )
        logger.info("taking over %s from a job that did not end properly (%s)", folder, other)
    write_json(url, asdict(own))
    # Two jobs that start together may both have seen no owner: the last to write stays.
    time.sleep(min(0.5, beat_s))
    now = _read(url)
    if now is None or now.token != own.token:
        raise FolderInUseError(f"{folder} is in use by another job that started just now ({now})")


def _is_alive(url: str, other: Owner, own: Owner, beat_s: float) -> bool:
    if other.machine == own.machine:
        try:
            # Two clock readings of the same start may differ by rounding.
            return bool(abs(psutil.Process(other.pid).create_time() - other.started) < 1.0)
        except psutil.NoSuchProcess:
            return False
    logger.info("waiting %.0f s to see whether the job in %s still runs", 2.5 * beat_s, url)
    deadline = time.monotonic() + 2.5 * beat_s
    while time.monotonic() < deadline:
        time.sleep(beat_s / 4)
        now = _read(url)
        if now is None:
            return False
        if (now.token, now.beats) != (other.token, other.beats):
            return True
    return False


def _keep_alive(url: str, own: Owner, beat_s: float, ended: threading.Event) -> None:
    """Show that this job runs, until it ends or another job has taken the folder."""
    beats = own.beats
    while not ended.wait(beat_s):
        beats += 1
        try:
            now = _read(url)
            if now is not None and now.token != own.token:
                logger.error("another job (%s) has taken over the folder of %s", now, url)
                return
            write_json(url, asdict(replace(own, beats=beats)))
        except StorageError as error:
            logger.warning("%s cannot be written: %s", url, error)


def _release(url: str, own: Owner) -> None:
    try:
        now = _read(url)
        if now is not None and now.token == own.token:
            delete(url)
    except StorageError as error:
        logger.warning("%s is left behind: %s", url, error)


def _read(url: str) -> Owner | None:
    """Return the owner in the file; None without one, or if the file is damaged."""
    if not exists(url):
        return None
    try:
        return Owner(**read_json(url))
    except (StorageError, TypeError) as error:
        logger.warning("%s is not the record of a job (%s); it is replaced", url, error)
        return None


def _machine() -> str:
    """Return what process ids refer to: the boot of this machine, and the container in it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else f"{psutil.boot_time():.0f}"
    namespace = Path("/proc/self/ns/pid")
    container = namespace.stat().st_ino if namespace.exists() else 0
    return f"{socket.gethostname()}/{started}/{container}"
