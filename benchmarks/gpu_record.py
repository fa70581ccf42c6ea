"""The record of a step of ``gpu_check.sh``: one JSON file with the outcome of each command.

    python -m benchmarks.gpu_record add FILE COMMAND EXIT_STATUS SECONDS LOG
    python -m benchmarks.gpu_record passed FILE COMMAND

Needs Python alone.
"""

import json
import sys
from pathlib import Path


def add(path: Path, command: str, exit_status: int, seconds: int, log: Path) -> None:
    """Write the outcome of a command in place of an earlier one of the same command.

    Args:
        path: JSON file.
        command: as the shell ran it.
        exit_status: 124 if its time ran out.
        seconds: its duration.
        log: file that ends with its output; the last line is kept, which summarizes tests.
    """
    commands = [each for each in _read(path) if each["command"] != command]
    lines = log.read_text(errors="replace").split("\n")
    last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    commands.append(
        {
            "command": command,
            "exit_status": exit_status,
            "seconds": seconds,
            "last_line": last_line,
        }
    )
    path.write_text(json.dumps({"commands": commands}, indent=1) + "\n")


def has_passed(path: Path, command: str) -> bool:
    """Return whether the file records that this command has passed."""
    return any(e["command"] == command and e["exit_status"] == 0 for e in _read(path))


def _read(path: Path) -> list[dict[str, object]]:
    if not path.exists():
        return []
    commands: list[dict[str, object]] = json.loads(path.read_text())["commands"]
    return commands


def main() -> int:
    match sys.argv[1:]:
        case ["add", path, command, exit_status, seconds, log]:
            add(Path(path), command, int(exit_status), int(seconds), Path(log))
            return 0
        case ["passed", path, command]:
            return 0 if has_passed(Path(path), command) else 1
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
