"""Optuna with median stopping and warm starts, killed and resumed; and a population."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray._private import worker

from pipeline.config import to_yaml
from pipeline.ingest.splits import prepare_split
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.search_space import sample
from tests.conftest import ROOT
from tests.pipeline.sweep.sweep_config import LR, tiny_sweep

pytestmark = [pytest.mark.ray, pytest.mark.soak]
METRIC = {"metric": "train/loss", "mode": "min", "grace_steps": 2}


@pytest.fixture(scope="module")
def shards(ray_cluster, tmp_path_factory):
    """Settings of the data that the sweeps share."""
    config = tiny_sweep(tmp_path_factory.mktemp("shards"), {})
    prepare_split(config, "train")
    prepare_split(config, "val")
    return {f"{split}_shards": f"{config.output}/shards/{split}" for split in ("train", "val")}


def with_shards(config, shards):
    return config.model_copy(update={"data": config.data.model_copy(update=shards)})


def records(config):
    """The ledger's files as they are now, by trial."""
    files = sorted(Path(config.output, "sweep", "ledger").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files}


def kill_sweep_when(config, is_due):
    """Run the sweep's command, and send SIGKILL to its driver when the ledger says so."""
    path = Path(f"{config.output}.yaml")
    path.write_text(to_yaml(config))
    command = [sys.executable, str(ROOT / "workflows" / "sweep.py"), str(path)]
    # A local Ray listens on the loopback alone.
    port = worker._global_node.gcs_address.rpartition(":")[2]
    address = {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    log = path.with_suffix(".log")
    with log.open("wb") as output:
        driver = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **address}
        )
    try:
        deadline = time.monotonic() + 300
        while not is_due(records(config)):
            assert driver.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == -signal.SIGKILL


def test_a_killed_optuna_sweep_with_median_stopping_and_warm_starts_continues(shards, tmp_path):
    sweep = {
        **METRIC,
        "space": {LR: {"kind": "log_uniform", "low": 0.001, "high": 0.02}},
        "searcher": "optuna",
        "scheduler": "median",
        "warm_start": "best",
        "trials": 3,
        "max_concurrent": 1,
    }
    schedule = {"steps": 4, "milestones": [100], "warmup_steps": 0}
    config = with_shards(tiny_sweep(tmp_path / "optuna", sweep, schedule=schedule), shards)
    # In the middle of the second trial, after its first checkpoint.
    kill_sweep_when(config, lambda found: found.get("0001", {}).get("steps", 0) >= 2)
    before = records(config)
    assert (before["0000"]["status"], before["0001"]["status"]) == ("finished", "running")
    first = Path(config.output, "sweep", "trials", "0000", "train")
    files = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

    result = run_sweep(config)
    assert [trial.status for trial in result.trials] == ["finished"] * 3
    assert {path: path.stat().st_mtime_ns for path in files} == files
    after = records(config)
    assert after["0000"] == before["0000"]
    assert after["0001"]["values"] == before["0001"]["values"]
    assert after["0001"]["history"][: len(before["0001"]["history"])] == before["0001"]["history"]
    assert [trial.steps for trial in result.trials] == [4, 4, 4]
    checkpoint = f"{config.output}/sweep/trials/0000/train/step_00000004"
    assert [trial.weights for trial in result.trials[:2]] == [None, checkpoint]
    assert result.trials[2].weights.endswith("/train/step_00000004")
    # It began where the first trial had ended.
    assert result.trials[1].history[0][1] < result.trials[0].history[0][1]


def test_a_member_of_a_population_goes_on_as_a_copy_of_the_best(shards, tmp_path):
    sweep = {
        **METRIC,
        "space": {LR: {"kind": "choice", "values": [0.02, 1e-7]}},
        "scheduler": "pbt",
        "pbt": {"every_steps": 4, "quantile": 0.5},
        "trials": 2,
    }
    schedule = {"steps": 24, "milestones": [100], "warmup_steps": 0}
    train = {"cpus_per_worker": 0.5, "schedule": schedule}
    config = with_shards(tiny_sweep(tmp_path / "pbt", sweep, **train), shards)
    values = [sample(config.sweep.space, config.seed, number)[LR] for number in (0, 1)]
    assert values == [0.02, 1e-7]
    result = run_sweep(config)
    assert [(trial.status, trial.steps) for trial in result.trials] == [("finished", 24)] * 2
    copied = [(copy.step, copy.source) for trial in result.trials for copy in trial.copies]
    assert copied and {step % 4 for step, _ in copied} == {0}
    # The one that did not learn took over what the other had learned.
    losses = [trial.metrics["train/loss"] for trial in result.trials]
    assert max(losses) < result.trials[1].history[0][1]
