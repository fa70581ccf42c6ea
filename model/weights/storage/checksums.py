"""``checksums.json``: size and SHA-256 of the files of a model's folder, to detect damage.

It is written last, so a folder that has it was written completely. A folder without it, written by
another tool or an older version, is read without the check.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from model.weights.report import WeightsError

CHECKSUMS_FILE = "checksums.json"


class DamagedFileError(WeightsError):
    """A file is missing or not the one that was recorded.

    Args:
        fault: what is wrong with which file, as a sentence without a full stop.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return (
            f"{self.fault}. Replace it with an intact copy, or use another checkpoint; if it was "
            f"changed on purpose, delete the {CHECKSUMS_FILE} beside it."
        )


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Record size and SHA-256 of the named files of a folder, atomically."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in sorted(names)
    }
    partial = folder / f".{CHECKSUMS_FILE}.partial"
    partial.write_text(json.dumps({"files": files}, indent=1) + "\n")
    partial.replace(folder / CHECKSUMS_FILE)


def verify_checksums(folder: Path, names: Iterable[str] = (), shown: str | None = None) -> bool:
    """Compare files of a folder with their recorded size and SHA-256.

    Args:
        folder: folder of the files.
        names: the files to compare; empty for all that the record lists. Files that it does not
            list are not compared.
        shown: how error messages name the folder; default its path.

    Returns:
        Whether the folder has a record.

    Raises:
        DamagedFileError: a file is missing or damaged, or the record itself is.
    """
    shown = shown or str(folder)
    recorded = _read_checksums(folder, shown)
    if recorded is None:
        return False
    for name in names or recorded:
        try:
            fault = _fault(folder / name, *recorded[name]) if name in recorded else None
        except OSError as error:  # no permission, or a failing disk
            fault = f"cannot be read ({error.strerror})"
        if fault:
            raise DamagedFileError(f"{shown}/{name} {fault}")
    return True


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_checksums(folder: Path, shown: str) -> dict[str, tuple[int, str]] | None:
    """Return (bytes, SHA-256) by file name, or None if the folder has no record."""
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return None
    try:
        files = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in json.loads(path.read_text())["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(
            f"{shown}/{CHECKSUMS_FILE} is damaged ({type(error).__name__}: {error})"
        ) from error
    if unsafe := [name for name in files if not _is_file_name(name)]:
        raise DamagedFileError(
            f"{shown}/{CHECKSUMS_FILE} names a file outside its folder: {unsafe[0]!r}"
        )
    return files


def _is_file_name(name: str) -> bool:
    return Path(name).name == name and name != ".." and "\0" not in name


def _fault(path: Path, size: int, sha256: str) -> str | None:
    """Return what is wrong with a file, as the end of a sentence; None if it is intact."""
    if not path.is_file():
        return "is missing"
    if (actual := path.stat().st_size) != size:
        return f"is damaged: it has {actual:,} bytes instead of {size:,}"
    if file_sha256(path) != sha256:
        return f"is damaged: its SHA-256 is not the one in {CHECKSUMS_FILE}"
    return None
