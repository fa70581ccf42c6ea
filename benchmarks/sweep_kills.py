"""Kill a sweep at random moments, and show what it repeats and what it finds.

    python -m benchmarks.sweep_kills --searcher random --scheduler asha --kills 3

Trains the quickstart's detector with its own settings, then sweeps its learning rate and weight
decay with trials of as many steps. The sweep is killed with SIGKILL: in turn its driver alone and
every process of it. Each time the same command is given again. No trial that has ended may be
touched, and a trial that was running may repeat no more than the steps since its last checkpoint.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml
from mlflow import MlflowClient

from benchmarks.machine import print_table, save

ROOT = Path(__file__).parents[1]
LR, DECAY = "train.optimizer.lr", "train.optimizer.weight_decay"
SPLITS = ("train", "val")
LOG_EVERY = 5


def main() -> None:
    options = _parse()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="sweep-kills-") as scratch:
        folder = Path(scratch)
        tree = _prepare_data(options, folder)
        plain = _write_config(tree, folder / "plain")
        _run("train", plain)
        default = json.loads((folder / "plain/train/best.json").read_text())
        default_ap = max(each["value"] for each in default["validations"])
        config = _write_config({**tree, "sweep": _search(options)}, folder / "sweep")
        begun, touched = time.monotonic(), 0
        for kill in range(options.kills):
            touched += _run_and_kill(config, moments.uniform(*options.after_s), kill)
        settled = _settled_trials(config)
        _run("sweep", config)
        touched += _changed(settled, config)
        minutes = (time.monotonic() - begun) / 60
        rows = [_row(each) for each in _ledger(config)]
        # A trial of a population goes on in another MLflow run, so its steps cannot be compared.
        repeated = None if options.scheduler == "pbt" else _repeated_steps(config)
    best = max((row["AP"] for row in rows if row["AP"] is not None), default=None)
    print_table(rows)
    summary = {
        "searcher": options.searcher,
        "scheduler": options.scheduler,
        "trials": len(rows),
        "steps": options.steps,
        "kills": options.kills,
        "stopped_early": sum(row["status"] == "stopped" for row in rows),
        "ended_trials_repeated": touched,
        "most_steps_repeated": repeated,
        "checkpoint_every": options.grace,
        "AP_of_default": default_ap,
        "AP_of_best": best,
        "minutes": minutes,
    }
    print_table([summary])
    if options.out:
        save([summary, *rows], options.out)


def _prepare_data(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the shards; return the settings that plain training and sweep share."""
    tree: dict[str, Any] = {
        "base": str(ROOT / "configs/quickstart.yaml"),
        "data": {"shapes": {"images": 200, "val_images": 50}},
        "train": {
            "workers": 1,
            "cpus_per_worker": options.cpus,
            "schedule": {"steps": options.steps, "warmup_steps": 10},
            "validate_every": options.grace,
            "checkpoint_every": options.grace,
            "log_every": LOG_EVERY,
        },
    }
    _run("prepare_shards", _write_config(tree, folder / "data"))
    tree["data"] |= {f"{split}_shards": f"{folder}/data/shards/{split}" for split in SPLITS}
    return tree


def _search(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "trials": options.trials,
        "searcher": options.searcher,
        "scheduler": options.scheduler,
        "grace_steps": options.grace,
        "warm_start": options.warm_start,
        "space": {
            LR: {"kind": "log_uniform", "low": 1e-5, "high": 1e-2},
            DECAY: {"kind": "log_uniform", "low": 0.005, "high": 0.2},
        },
    }


def _write_config(tree: Mapping[str, Any], output: Path) -> Path:
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**tree, "name": output.name, "output": str(output)}))
    return path


def _start(job: str, config: Path) -> subprocess.Popen[bytes]:
    with config.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, f"workflows/{job}.py", str(config)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )


def _run(job: str, config: Path) -> None:
    if _start(job, config).wait() != 0:
        raise SystemExit(f"{job} failed:\n{_end_of_log(config)}")


def _end_of_log(config: Path) -> str:
    return config.with_suffix(".log").read_text()[-3000:]


def _run_and_kill(config: Path, seconds: float, number: int) -> int:
    """Run the sweep for some seconds and kill it; return how many ended trials it touched."""
    settled = _settled_trials(config)
    process = _start("sweep", config)
    time.sleep(seconds)
    if process.poll() is not None:
        raise SystemExit(f"the sweep ended before it was killed:\n{_end_of_log(config)}")
    everything = [process.pid, *(each.pid for each in psutil.Process(process.pid).children(True))]
    victims = everything if number % 2 else everything[:1]
    for pid in victims:
        try:
            psutil.Process(pid).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    print(
        f"killed {'everything' if number % 2 else 'the driver'} after {seconds:.0f} s", flush=True
    )
    return _changed(settled, config)


def _ledger(config: Path) -> list[dict[str, Any]]:
    folder = config.with_suffix("") / "sweep/ledger"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _settled_trials(config: Path) -> dict[str, tuple[Mapping[str, Any], dict[Path, int]]]:
    """Return the record, and the modification times of the files, of each trial that has ended."""
    trials = config.with_suffix("") / "sweep/trials"
    return {
        each["trial_id"]: (
            each,
            {path: path.stat().st_mtime_ns for path in trials.glob(f"{each['trial_id']}/train/**")},
        )
        for each in _ledger(config)
        if each["status"] != "running"
    }


def _changed(before: Mapping[str, Any], config: Path) -> int:
    after = _settled_trials(config)
    return sum(after.get(name) != found for name, found in before.items())


def _repeated_steps(config: Path) -> int:
    """Return the most steps of a trial that were logged again after one kill."""
    output = config.with_suffix("")
    client = MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    most = 0
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            logged = Counter(
                each.step for each in client.get_metric_history(run.info.run_id, "train/loss")
            )
            again = Counter(count for count in logged.values() if count > 1)
            most = max([most, *(LOG_EVERY * number for number in again.values())])
    return most


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    values = [value for _, value in record["history"]]
    return {
        "trial": record["trial_id"],
        "lr": record["values"][LR],
        "weight_decay": record["values"][DECAY],
        "status": record["status"],
        "steps": record["steps"],
        "AP": max(values) if values else None,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searcher", choices=["random", "optuna"], default="random")
    parser.add_argument("--scheduler", choices=["asha", "median", "pbt", "none"], default="asha")
    parser.add_argument("--warm-start", choices=["none", "best"], default="none")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=240, help="of each trial, and of the default")
    parser.add_argument("--grace", type=int, default=40, help="steps between two validations")
    parser.add_argument("--cpus", type=float, default=1.0, help="of a trial; pbt runs all at once")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--after-s", type=float, nargs=2, default=(60, 150), metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, help="where to save the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
