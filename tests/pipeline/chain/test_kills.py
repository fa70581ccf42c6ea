"""A chain that is killed goes on where it was, and leaves the files of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.chain.run import run_chain
from tests.conftest import ROOT

# KILLED_AT=train_shards,val_shards,train,evaluate,register,infer kills at every stage.
KILLED_AT = os.environ.get("KILLED_AT", "train,register").split(",")
WAIT_S = 600.0

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
    address = ray_cluster.get_runtime_context().gcs_address
    log = tmp_path / "log"

    def start():
        with log.open("ab") as sink:
            return subprocess.Popen(
                [sys.executable, "workflows/end_to_end.py", str(path)],
                env={**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"},
                stdout=sink,
                stderr=sink,
                cwd=ROOT,
                start_new_session=True,
            )

    start.log = log
    return start


def wait_until_running(process, output, stage):
    """Wait until a stage has begun in this process's chain."""
    state = Path(output) / "stages" / stage / "state.json"
    log = state.with_name("log.txt")
    begun = time.time()
    while time.time() < begun + WAIT_S:
        if process.poll() is not None:
            return False
        has_log = log.exists() and log.stat().st_mtime > begun
        if has_log and json.loads(state.read_text())["since"] > begun:
            return True
        time.sleep(0.05)
    pytest.fail(f"stage {stage} did not start")


@pytest.mark.ray
def test_a_chain_killed_at_its_stages_leaves_the_same_files(start_chain, small_config, files_below):
    output = Path(small_config.output)
    finished = {}
    for stage in KILLED_AT:
        process = start_chain()
        assert wait_until_running(process, output, stage), start_chain.log.read_text()[-2000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for record in output.glob("stages/*/_SUCCESS.json"):
            written = record.stat().st_mtime_ns
            # What was finished before is not done again.
            assert finished.setdefault(record.parent.name, written) == written
    process = start_chain()
    assert process.wait(WAIT_S) == 0, start_chain.log.read_text()[-3000:]
    for name, written in finished.items():
        assert (output / "stages" / name / "_SUCCESS.json").stat().st_mtime_ns == written
    after_kills = results(files_below, output)
    assert any(name.endswith("model.safetensors") for name in after_kills)

    output.rename(f"{output}-killed")
    assert len(list(run_chain(small_config))) == 6
    assert results(files_below, output) == after_kills
