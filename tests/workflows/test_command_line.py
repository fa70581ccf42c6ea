"""What a person sees of the jobs: help, wrong settings, surroundings that are not ready."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_config
from workflows.command_line import figures, main

ROOT = Path(__file__).resolve().parent.parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
JOBS = sorted(p for p in (ROOT / "workflows").glob("*.py") if "__name__" in p.read_text())


def run_job(job, *arguments):
    return main("about", "example", job, ("train",), [QUICKSTART, *arguments])


def never(_config):
    pytest.fail("the job was started")


def test_all_seven_jobs_are_there():
    names = {path.stem for path in JOBS}
    assert names == {
        *("prepare_shards", "train", "sweep", "evaluate", "register", "infer_batch"),
        "end_to_end",
    }


def test_wrong_settings_stop_before_ray_and_are_all_named(capsys):
    status = run_job(never, "train.workers=two", "trian.lr=1", "model.rpn.nms_iou=7")
    said = capsys.readouterr().err
    assert status == 2
    assert "train.workers" in said
    assert "did you mean train?" in said
    assert "model.rpn.nms_iou" in said


def test_a_missing_file_is_named(capsys):
    assert main("about", "example", never, (), ["no_such.yaml"]) == 2
    assert "no_such.yaml" in capsys.readouterr().err


def test_help_shows_an_example_and_the_keys_with_their_defaults():
    # A process of its own: the script must find its packages by itself.
    shown = subprocess.run(
        [sys.executable, str(ROOT / "workflows" / "train.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    ).stdout
    assert "python workflows/train.py configs/" in shown
    assert "train.workers = 1" in shown
    assert "infer.batch" not in shown


@pytest.mark.ray
def test_a_job_without_its_inputs_says_what_is_missing(ray_cluster, tmp_path, capsys):
    from workflows.register import job

    assert run_job(job, f"output={tmp_path}") == 1
    assert "run workflows/evaluate.py first" in capsys.readouterr().err


@pytest.mark.ray
def test_a_mistake_of_ours_keeps_its_traceback(ray_cluster):
    def broken(_config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(broken)


def test_figures_are_one_to_a_line():
    assert figures({"val/AP": 0.5, "loss": 1.0}, "val/") == "AP          0.5"


def test_overrides_reach_the_job():
    assert load_config(QUICKSTART, ["train.workers=1"]).train.workers == 1
