"""One command runs every job, from any folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from workflows.__main__ import job_names

ROOT = Path(__file__).resolve().parent.parent.parent
CONSOLE = Path(sys.executable).with_name("maskrcnn-ray")


def run(*arguments, cwd):
    command = [CONSOLE] if CONSOLE.exists() else [sys.executable, "-m", "workflows"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=cwd)


def test_every_command_of_the_folder_is_a_job():
    scripts = {
        path.stem
        for path in (ROOT / "workflows").glob("[!_]*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert set(job_names()) == scripts
    assert {"train", "sweep", "evaluate", "infer_batch"} <= set(job_names())


def test_a_job_runs_in_another_folder_with_the_installed_recipes(tmp_path):
    ended = run("train", "configs/quickstart.yaml", "trian.steps=3", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("maskrcnn-ray train: 1 setting is wrong:")
    assert "did you mean train?" in ended.stderr


def test_the_name_of_a_job_may_have_a_dash(tmp_path):
    ended = run("infer-batch", "--help", cwd=tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: maskrcnn-ray infer_batch")


@pytest.mark.parametrize(
    ("arguments", "status", "stream"),
    [(["--help"], 0, "stdout"), ([], 2, "stderr"), (["fly"], 2, "stderr")],
)
def test_the_jobs_are_listed(arguments, status, stream, tmp_path):
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == status
    assert "jobs: " in getattr(ended, stream) and "prepare_shards" in getattr(ended, stream)
