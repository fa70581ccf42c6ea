"""Kill the machine that trains, and print how long it takes until training goes on.

Starts a Ray cluster of three raylets on this machine: a head without CPUs, and two machines of one
CPU each. When the training has saved a checkpoint, the raylet of a worker gets kill -9. With
``--workers 2`` the training needs both machines; ``--replace-after 20`` adds a new one after 20 s,
as an autoscaler would. With ``--min-workers 1`` it goes on with the machine that is left, and takes
the new one when it is there.

    python tools/lose_a_machine.py --workers 1
    python tools/lose_a_machine.py --workers 2 --replace-after 20
    python tools/lose_a_machine.py --workers 2 --min-workers 1
"""

import argparse
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
STEP = re.compile(r"step (\d+)/\d+")
RESUMED = re.compile(r"resuming after step (\d+)")
WORKERS = re.compile(r"training on \w+ with (\d+) workers")
SETTINGS = (
    "data.shapes.images=40",
    "data.shapes.val_images=4",
    "train.global_batch=2",
    "train.schedule.steps=100000",
    "train.checkpoint_every=20",
    "train.log_every=5",
)


class Job:
    """A job in a process of its own, whose lines are printed with the time and kept."""

    def __init__(self, workflow: str, settings: list[str]) -> None:
        """Start it."""
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [sys.executable, f"workflows/{workflow}.py", "configs/quickstart.yaml", *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append((time.monotonic(), line.rstrip()))
            print(f"{time.strftime('%X')}  {line.rstrip()}", flush=True)

    def wait_for(
        self, pattern: re.Pattern[str], after: float, timeout_s: float
    ) -> tuple[float, int]:
        """Return the time and the number of a line that matches and is printed after ``after``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            for moment, line in list(self.lines):
                found = pattern.search(line)
                if moment > after and found:
                    return moment, int(found[1])
            time.sleep(0.1)
        raise TimeoutError(f"the job printed no line with {pattern.pattern} in {timeout_s:g} s")


def raylet_of_a_worker(nodes: list) -> object:
    """Return the node of ``ray.cluster_utils`` on which a worker of the training runs."""
    for node in nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        titles = [" ".join(child.cmdline()) for child in raylet.children(recursive=True)]
        if any("TrainWorker" in title for title in titles):
            return node
    raise RuntimeError("no raylet has a worker of the training")


def measure(
    workers: int, min_workers: int | None, replace_after_s: float | None, timeout_s: float
) -> None:
    """Run the try and print the result."""
    # Before ray is imported, which reads them.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ["PYTHONPATH"] = str(ROOT)
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from pipeline.cluster import prepare_environment  # noqa: PLC0415

    prepare_environment()
    machine = {"num_cpus": 1, "object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**machine, "num_cpus": 0})
    try:
        nodes = [cluster.add_node(**machine) for _ in range(2)]
        os.environ["RAY_ADDRESS"] = cluster.address
        with tempfile.TemporaryDirectory() as folder:
            settings = [*SETTINGS, f"output={folder}", f"train.workers={workers}"]
            if min_workers is not None:
                settings.append(f"train.min_workers={min_workers}")
            if Job("prepare_shards", settings).process.wait():
                raise RuntimeError("prepare_shards failed")
            job = Job("train", settings)
            try:
                job.wait_for(re.compile(r"step (\d+)  checkpoint saved"), 0.0, timeout_s)
                node = raylet_of_a_worker(nodes)
                os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
                killed = time.monotonic()
                print(f"{time.strftime('%X')}  ---- raylet killed", flush=True)
                if replace_after_s is not None:
                    time.sleep(replace_after_s)
                    cluster.add_node(**machine)
                    print(f"{time.strftime('%X')}  ---- new machine added", flush=True)
                _, left = job.wait_for(WORKERS, killed, timeout_s)
                # The lost worker lives for some seconds more, and may print further steps.
                resumed, saved = job.wait_for(RESUMED, killed, timeout_s)
                moment, step = job.wait_for(STEP, resumed, timeout_s)
                print(
                    f"resumed after step {saved} {resumed - killed:.0f} s after the kill, "
                    f"trained to step {step} with {left} workers after {moment - killed:.0f} s"
                )
            finally:
                job.process.send_signal(signal.SIGINT)
                job.process.wait(60)
    finally:
        cluster.shutdown()


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2))
    parser.add_argument("--min-workers", type=int, choices=(1, 2))
    parser.add_argument("--replace-after", type=float, metavar="SECONDS")
    parser.add_argument("--timeout", type=float, default=400, metavar="SECONDS")
    arguments = parser.parse_args()
    measure(arguments.workers, arguments.min_workers, arguments.replace_after, arguments.timeout)


if __name__ == "__main__":
    main()
