"""Which code a job runs: the commit, and what differs from it."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

MAX_DIFF_BYTES = 1 << 20
_GIT_TIMEOUT_S = 20


@dataclass(frozen=True)
class CodeVersion:
    """The code of a job.

    Args:
        commit: hash of the git commit, with ``-dirty`` if files differ from it; ``unknown`` where
            there is no repository.
        diff: what differs, as ``git diff`` shows it; empty if nothing.
    """

    commit: str
    diff: str = ""


def read_code_version(folder: Path | None = None) -> CodeVersion:
    """Return the version of the code in a folder's git repository.

    Args:
        folder: default: this package's repository; if it is installed without one, that of the
            current folder. Inside a Ray job, which has a copy without one, the commit is that of
            the environment variable GIT_COMMIT.
    """
    own = Path(__file__).resolve().parents[2]
    if folder is None:
        folder = own if (own / ".git").exists() else Path.cwd()
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        commit = _git(root, "rev-parse", "HEAD").strip()
        diff = _git(root, "diff", "HEAD", "--no-ext-diff", "--no-color")
    except (OSError, subprocess.SubprocessError):
        return CodeVersion(os.environ.get("GIT_COMMIT", "unknown"))
    return CodeVersion(f"{commit}-dirty" if diff else commit, _shorten(diff))


def code_commit() -> str:
    """Return the git commit of this code, with ``-dirty`` if it has changes; else ``unknown``."""
    return read_code_version().commit


def _shorten(diff: str) -> str:
    encoded = diff.encode()
    if len(encoded) <= MAX_DIFF_BYTES:
        return diff
    kept = encoded[:MAX_DIFF_BYTES].decode(errors="ignore")
    return f"{kept}\n... {len(encoded) - MAX_DIFF_BYTES} more bytes of the diff are left out\n"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        check=True,
        timeout=_GIT_TIMEOUT_S,
    ).stdout.decode(errors="replace")
