"""Temporary folders for large files, which do not fill the disk if their processes are killed.

A process that is killed cannot delete what it downloaded or was about to upload. Each folder has a
lock that ends with its process, and the next one to make such a folder deletes those without.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there folders of killed processes stay
    fcntl = None  # type: ignore[assignment]

_PREFIX = "maskrcnn-ray-"
_LOCK, _FILES = "lock", "files"
_NEW_S = 600.0
"""Younger folders are left alone: one that is just being made has no lock yet."""


class ScratchFolder:
    """An empty temporary folder.

    Args:
        name: what it is for, a part of its name.

    Attributes:
        path: the folder.
    """

    def __init__(self, name: str) -> None:
        _delete_abandoned()
        self._root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-"))
        self._lock = _lock(self._root)
        self.path = self._root / _FILES
        self.path.mkdir()

    def delete(self) -> None:
        """Delete it with all that is in it."""
        shutil.rmtree(self._root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Provide an empty temporary folder for a ``with`` block.

    Args:
        name: what it is for, a part of its name.
    """
    folder = ScratchFolder(name)
    try:
        yield folder.path
    finally:
        folder.delete()


def _lock(root: Path) -> int | None:
    """Lock a folder until this process ends; return the lock's file, or None if it is taken."""
    file = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _delete_abandoned() -> None:
    """Delete the folders of processes that have ended without doing so."""
    if fcntl is None:
        return
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Another process may delete it at the same time, and it may be another user's.
        with contextlib.suppress(OSError):
            if time.time() - root.stat().st_mtime < _NEW_S:
                continue
            if (lock := _lock(root)) is not None:
                shutil.rmtree(root, ignore_errors=True)
                os.close(lock)
