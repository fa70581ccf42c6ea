"""Check names from outside (object keys, manifests, archives), so that they stay in a folder."""

import re
from pathlib import Path

from pipeline.storage.retries import StorageError


class UnsafeNameError(StorageError, ValueError):
    """A name from outside would lead out of its folder."""


def check_name(name: str) -> str:
    """Return a relative path with forward slashes unchanged.

    Raises:
        UnsafeNameError: it is empty or absolute, has a part ``..``, or a backslash, a NUL or
            another control character.
    """
    parts = name.split("/")
    if (
        not name
        or name.startswith("/")
        or re.match(r"[A-Za-z]:", name)  # a drive
        or ".." in parts
        or re.search(r"[\\\x00-\x1f\x7f]", name)
        or all(part in ("", ".") for part in parts)
    ):
        raise UnsafeNameError(
            f"{name[:200]!r} is not a name inside a folder; absolute paths, '..', backslashes and "
            "control characters are refused. Rename the file where it comes from."
        )
    return name


def path_below(folder: Path, name: str) -> Path:
    """Return the path of a name from outside in a local folder, for writing.

    Raises:
        UnsafeNameError: the name, or a symbolic link on its way, leads out of the folder.
    """
    path = folder / check_name(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeNameError(f"{path} leads out of {folder} through a symbolic link; remove it")
    return path
