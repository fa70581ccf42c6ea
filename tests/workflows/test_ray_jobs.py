"""Jobs that are submitted to a cluster: train, sweep, the chain, and one that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray._private import worker
from ray.job_submission import JobSubmissionClient

from tests.conftest import ROOT

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).with_name("ray")
SETTINGS = {
    "base": str(ROOT / "configs" / "quickstart.yaml"),
    "name": "jobs",
    "data": {
        "shapes": {"images": 8, "val_images": 4, "side": 64, "max_objects": 2},
        "rows_per_shard": 4,
        "rows_per_group": 4,
        "train_short_sides": [64],
    },
    "model": {
        "input": {"short_side": 64, "long_side": 64},
        "backbone": {"width": 8},
        "fpn": {"channels": 16},
        "box": {"hidden": 32},
        "mask": {"channels": 16, "layers": 1},
    },
    "train": {"global_batch": 4, "schedule": {"steps": 2, "warmup_steps": 0}},
    "evaluate": {"pictures": 1},
    "infer": {"pictures": 1},
    "sweep": {
        "space": {"train.optimizer.lr": {"kind": "choice", "values": [0.001]}},
        "trials": 1,
        "grace_steps": 1,
    },
}


@pytest.fixture(scope="module")
def submit(ray_cluster, tmp_path_factory):
    """A function: job and settings -> what the command printed, exit status of job, its log."""
    folder = tmp_path_factory.mktemp("jobs")
    config = folder / "jobs.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, "output": str(folder / "output")}))
    # The packages of the checkout come with the cluster, so nothing is uploaded.
    address = f"http://{worker._global_node.webui_url}"
    client = JobSubmissionClient(address)

    def run(job, *settings):
        name = f"{job}-{len(client.list_jobs())}"
        entrypoint = [sys.executable, str(ROOT / "workflows" / f"{job}.py"), str(config), *settings]
        command = [RAY, "job", "submit", "--address", address, "--submission-id", name, "--"]
        submitted = subprocess.run(
            [*command, *entrypoint],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        info = client.get_job_info(name)
        return submitted, info.driver_exit_code, client.get_job_logs(name).splitlines()

    run.output = folder / "output"
    return run


def test_a_wrong_setting_is_the_last_line_of_the_log(submit):
    submitted, status, log = submit("train", "trian.steps=3")
    assert (submitted.returncode, status) == (1, 2)
    assert log[-1] == "  trian: unknown key; did you mean train?"
    assert "exit code 2" in submitted.stdout + submitted.stderr


def test_a_stage_that_fails_is_the_last_line_of_the_log(submit, tmp_path):
    annotations = tmp_path / "annotations.json"
    annotations.write_text('{"images": [')
    submitted, status, log = submit(
        "end_to_end",
        "data.source=coco",
        f"data.train=[{{annotations: {annotations}, images: {tmp_path}}}]",
        f"data.val=[{{annotations: {annotations}, images: {tmp_path}}}]",
        "--until=val_shards",
        f"output={submit.output}-failed",
    )
    assert (submitted.returncode, status) == (1, 1)
    assert log[-1].startswith("end_to_end.py: stage ")
    assert f"_shards failed: {annotations}: " in log[-1]
    assert log[-1].endswith("/log.txt)")


def test_a_training_and_the_rest_of_the_chain_run_as_jobs(submit):
    submitted, status, log = submit("end_to_end", "--until=train")
    assert (submitted.returncode, status) == (0, 0), "\n".join(log)
    submitted, status, log = submit("train")
    assert (submitted.returncode, status) == (0, 0), "\n".join(log)
    assert "nothing to do" in "\n".join(log)
    # No AP is above 1.
    submitted, status, log = submit(
        "end_to_end",
        "track.champion_minimum=1.1",
        "track.promotion.must_promote=true",
    )
    assert (submitted.returncode, status) == (1, 3), "\n".join(log)
    assert "is not promoted: " in log[-1]
    assert "[train] up to date, skipped" in log
    state = json.loads((submit.output / "stages" / "chain.json").read_text())
    assert (state["state"], "not promoted" in state["message"]) == ("failed", True)
    assert (submit.output / "report.html").exists()


@pytest.mark.soak
def test_a_sweep_runs_as_a_job(submit):
    submitted, status, log = submit("end_to_end", "--until=val_shards")
    assert (submitted.returncode, status) == (0, 0), "\n".join(log)
    submitted, status, log = submit("sweep")
    assert (submitted.returncode, status) == (0, 0), "\n".join(log)
    assert (submit.output / "sweep" / "best.yaml").exists()
