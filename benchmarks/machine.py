"""Describe the machine that a benchmark runs on, and print and save the benchmark's rows.

Needs only torch, so that every benchmark also runs on a bare GPU machine.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

Row = Mapping[str, object]
RESULTS = Path(__file__).parent / "results"


def machine_facts() -> dict[str, object]:
    """Return the commit, processor, GPU and versions, which give the numbers their meaning."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "python": platform.python_version(),
    }


def save(rows: Sequence[Row], path: Path) -> None:
    """Write ``rows`` and ``machine_facts()`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine_facts(), "rows": [dict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1) + "\n")


def print_table(rows: Sequence[Row]) -> None:
    """Print rows as a table with one column per key of the first row."""
    if not rows:
        return
    columns = list(rows[0])
    lines = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)


def _commit() -> str | None:
    """Return the commit, with a + if files were modified; None outside a git checkout."""
    root = Path(__file__).parents[1]
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    """Return the name of the processor if Linux knows it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
