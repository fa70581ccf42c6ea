"""Kill a training with SIGKILL, and measure how long it takes until it trains again.

    python -m benchmarks.recovery --workers 2 --kills worker driver everything

Trains the quickstart's detector. Once it has saved a checkpoint, in turn one worker, the driver
alone and every process of it are killed. A worker is started again by Ray Train; after the others
the same command is given again, and its time counts from there. The columns after ``seconds`` say
where they went: the seconds at which each stage was reached.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.machine import print_table, save

ROOT = Path(__file__).parents[1]
STEP = re.compile(r"step (\d+)/\d+  loss")
SAVED = re.compile(r"step (\d+)  checkpoint saved")
# What a job prints when it reaches a stage, in order; a worker that is restarted skips the first.
STAGES = {
    "imports": re.compile(r"starting Ray on this machine"),
    "ray": re.compile(r"Ray has [\d.]+ CPUs"),
    "driver": re.compile(r"starting \d+ workers"),
    "workers": re.compile(r"training on \w+ with \d+ workers"),
    "checkpoint": re.compile(r"resuming after step (\d+)"),
}
KILLS = ("worker", "driver", "everything")
TIMEOUT_S = 600.0
CHECKPOINT_EVERY = 10


class Job:
    """A training in a process of its own, whose lines are kept with their time."""

    def __init__(self, config: Path) -> None:
        """Start it."""
        self.lines: list[tuple[float, str]] = []
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "workflows/train.py", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append((time.monotonic(), line.rstrip()))

    def find(self, pattern: re.Pattern[str], after: float) -> tuple[float, re.Match[str]] | None:
        """Return the time and match of the first line that is printed after a moment."""
        for moment, line in list(self.lines):
            if moment > after and (found := pattern.search(line)):
                return moment, found
        return None

    def wait_for(self, pattern: re.Pattern[str], after: float) -> tuple[float, re.Match[str]]:
        """Wait for such a line.

        Raises:
            SystemExit: the job ends before it, or the time is over.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if found := self.find(pattern, after):
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        end = "\n".join(line for _, line in self.lines[-30:])
        raise SystemExit(f"the training printed no line with {pattern.pattern}:\n{end}")

    def last_step(self) -> int:
        """Return the last step that was logged."""
        found = [STEP.search(line) for _, line in self.lines]
        return max(int(each[1]) for each in found if each)

    def kill(self, what: str) -> None:
        """Kill a worker, the driver, or every process."""
        driver = psutil.Process(self.process.pid)
        children = driver.children(recursive=True)
        workers = [each for each in children if "RayTrainWorker" in _command(each)]
        victims = {"worker": workers[:1], "driver": [driver], "everything": [driver, *children]}
        for process in victims[what]:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="recovery-") as scratch:
        config = _prepare(options, Path(scratch))
        job = Job(config)
        rows = [_first_start(job)]
        print_table(rows)
        for what in options.kills:
            job, row = _kill(job, config, what)
            print_table([row])
            rows.append(row)
        job.kill("everything")
        job.process.wait()
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _prepare(options: argparse.Namespace, folder: Path) -> Path:
    """Write the shards and the config of the training; return its path."""
    tree: dict[str, Any] = {
        "base": str(ROOT / "configs/quickstart.yaml"),
        "output": str(folder / "output"),
        "data": {"shapes": {"images": 200, "val_images": 8}},
        "train": {
            "workers": options.workers,
            "cpus_per_worker": 1,
            "schedule": {"steps": 100_000},
            "checkpoint_every": CHECKPOINT_EVERY,
            "log_every": 1,
        },
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    subprocess.run(
        [sys.executable, "workflows/prepare_shards.py", str(config)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return config


def _first_start(job: Job) -> dict[str, Any]:
    """Wait for the first step of a new training; return its row."""
    moment, _ = job.wait_for(STEP, job.begun)
    return _row("nothing", moment, job, job.begun, None)


def _kill(job: Job, config: Path, what: str) -> tuple[Job, dict[str, Any]]:
    """Kill after the next checkpoint; return the job that trains on, and the row."""
    saved, _ = job.wait_for(SAVED, time.monotonic())
    job.wait_for(STEP, saved)
    job.kill(what)
    killed = time.monotonic()
    if what != "worker":
        job.process.wait()
    # Lines of other workers may arrive late.
    time.sleep(0.2)
    before = job.last_step()
    begun = killed
    if what != "worker":
        job = Job(config)
        begun = job.begun
    resumed, match = job.wait_for(STAGES["checkpoint"], begun)
    moment, _ = job.wait_for(STEP, resumed)
    return job, _row(what, moment, job, begun, before - int(match[1]))


def _row(what: str, moment: float, job: Job, begun: float, repeated: int | None) -> dict[str, Any]:
    reached = {name: job.find(pattern, begun) for name, pattern in STAGES.items()}
    return {
        "killed": what,
        "seconds": moment - begun,
        **{name: found[0] - begun if found else None for name, found in reached.items()},
        "steps_repeated": repeated,
        "checkpoint_every": CHECKPOINT_EVERY,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", nargs="+", choices=KILLS, default=KILLS)
    parser.add_argument("--out", type=Path, help="where to save the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
