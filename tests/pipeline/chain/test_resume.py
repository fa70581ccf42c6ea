"""A chain goes on where it was killed, and runs again what a change affects, but nothing else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.chain.plan import plan_chain
from pipeline.chain.run import run_chain
from tests.conftest import ROOT

STAGES = ("train_shards", "val_shards", "train", "evaluate", "register", "infer")
WAIT_S = 300.0

# Results; other files hold times, ids of MLflow runs, or states of optimizers.
RESULTS = (
    *("shards/*/*.parquet", "shards/*/quarantine.jsonl", "train/step_*/model.*"),
    *("evaluation/predictions/*.parquet", "evaluation/images.parquet", "evaluation/pictures/*"),
    *("predictions/*.parquet", "predictions/pictures/*", "predictions/failed.jsonl"),
)


def results(files_below, output):
    digests = files_below(output)
    return {
        name: digest
        for name, digest in digests.items()
        if any(Path(name).match(pattern) for pattern in RESULTS)
    }


@pytest.fixture
def start_chain(ray_cluster, small_config, tmp_path):
    """A function that starts the command, which joins the session's cluster."""
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(small_config.model_dump(mode="json")))
    joins = {
        "RAY_ADDRESS": ray_cluster.get_runtime_context().gcs_address,
        # Ray would look for it at the address of the network, where a local one does not listen.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    log = tmp_path / "log"

    def start():
        with log.open("ab") as sink:
            return subprocess.Popen(
                [sys.executable, "workflows/end_to_end.py", str(path)],
                env={**os.environ, **joins, "OMP_NUM_THREADS": "1"},
                stdout=sink,
                stderr=sink,
                cwd=ROOT,
                start_new_session=True,
            )

    start.log = log
    return start


def wait_until_running(process, output, stage, chain_log):
    """Wait until a stage has begun in this process's chain."""
    state = Path(output) / "stages" / stage / "state.json"
    log = state.with_name("log.txt")
    begun = time.time()
    while time.time() < begun + WAIT_S:
        if process.poll() is not None:
            pytest.fail(f"the chain ended before stage {stage}:\n{chain_log.read_text()[-3000:]}")
        has_log = log.exists() and log.stat().st_mtime > begun
        if has_log and json.loads(state.read_text())["since"] > begun:
            return
        time.sleep(0.05)
    pytest.fail(f"stage {stage} did not start:\n{chain_log.read_text()[-3000:]}")


def stages_run(config):
    """Run the chain in this process; return the names of the stages that were not skipped."""
    return [record.stage for record in run_chain(config) if not record.skipped]


def finished_at(output):
    """Return when each finished stage was recorded."""
    records = output.glob("stages/*/_SUCCESS.json")
    return {record.parent.name: record.stat().st_mtime_ns for record in records}


def run_with_kills(start_chain, output, stages):
    """Kill a chain each time one of the stages has begun, then let it finish."""
    finished = {}
    for stage in stages:
        process = start_chain()
        wait_until_running(process, output, stage, start_chain.log)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # What was finished before is not done again.
        assert finished.items() <= finished_at(output).items()
        finished = finished_at(output)
    process = start_chain()
    assert process.wait(WAIT_S) == 0, start_chain.log.read_text()[-3000:]
    assert finished.items() <= finished_at(output).items()
    return finished


@pytest.mark.ray
def test_a_killed_chain_goes_on_and_is_then_up_to_date(start_chain, small_config):
    output = Path(small_config.output)
    assert {"train_shards", "val_shards"} <= set(run_with_kills(start_chain, output, ["train"]))
    assert (output / "report.html").exists()
    assert stages_run(small_config) == []
    assert {each.verdict for each in plan_chain(small_config)} == {"up to date"}


@pytest.mark.ray
@pytest.mark.soak
def test_a_chain_killed_at_every_stage_leaves_the_files_of_one_that_was_not(
    start_chain, small_config, files_below
):
    output = Path(small_config.output)
    run_with_kills(start_chain, output, STAGES)
    after_kills = results(files_below, output)
    assert any(name.endswith("model.safetensors") for name in after_kills)
    # A change affects only the stages that depend on it.
    infer = small_config.infer.model_copy(update={"score_threshold": 0.5})
    changed = small_config.model_copy(update={"infer": infer})
    assert stages_run(changed) == ["infer"]
    # Equal results of a stage that runs again leave the later ones as they are.
    shutil.rmtree(output / "evaluation")
    assert stages_run(changed) == ["evaluate"]
    output.rename(f"{output}-killed")
    assert sorted(stages_run(small_config)) == sorted(finished_at(output))
    assert results(files_below, output) == after_kills
