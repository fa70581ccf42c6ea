"""Help, refused settings and missing inputs of the jobs, without waiting for slow imports."""

import importlib
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import OutOfMemoryError

from model.weights import WeightsError
from pipeline.config import RunConfig, load_config
from workflows.arguments import Mode
from workflows.command_line import format_values, main

ROOT = Path(__file__).resolve().parent.parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
COMMANDS = sorted(
    p for p in (ROOT / "workflows").glob("[!_]*.py") if '__name__ == "__main__"' in p.read_text()
)
JOBS = [path for path in COMMANDS if path.stem != "predict"]  # those with a config
SLOW_IMPORTS = {"torch", "ray", "mlflow", "pyarrow", "pandas"}


def run_job(job, *arguments):
    return main("about", "example", job, announce, ("train",), [QUICKSTART, *arguments])


def announce(config):
    return f"about to write {config.output}"


def fail_if_started(_config):
    pytest.fail("the job was started")


def run_in_fresh_interpreter(*command):
    """Run Python; return the exit status, what it printed, and the top-level packages imported."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    imports = re.findall(r"^import time:.*\| +(\w+)", process.stderr, re.MULTILINE)
    errors = re.sub(r"^import time:.*\n", "", process.stderr, flags=re.MULTILINE)
    return process.returncode, process.stdout + errors, set(imports)


def test_all_jobs_exist():
    names = {path.stem for path in COMMANDS}
    assert names == {
        *("prepare_shards", "train", "sweep", "evaluate", "register", "infer_batch"),
        *("end_to_end", "show_data", "compare", "predict", "serve", "send_unsent"),
    }


@pytest.mark.parametrize("job", COMMANDS, ids=lambda path: path.stem)
def test_help_does_not_wait_for_slow_imports(job):
    status, output, imports = run_in_fresh_interpreter(job, "--help")
    assert (status, "usage:" in output) == (0, True)
    assert "pydantic" in imports
    assert not imports & SLOW_IMPORTS


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_a_wrong_setting_is_refused_without_slow_imports(job):
    status, output, imports = run_in_fresh_interpreter(job, QUICKSTART, "trian.steps=3")
    assert (status, "did you mean train?" in output) == (2, True)
    assert "pydantic" in imports
    assert not imports & SLOW_IMPORTS


@pytest.mark.parametrize("package", ["model.weights", "pipeline.config"])
def test_help_of_a_package_does_not_wait_for_slow_imports(package):
    status, output, imports = run_in_fresh_interpreter("-m", package, "--help")
    assert (status, "usage:" in output) == (0, True)
    assert "argparse" in imports
    assert not imports & SLOW_IMPORTS


def test_all_wrong_settings_are_listed_before_ray_starts(capsys):
    status = run_job(fail_if_started, "train.workers=two", "trian.lr=1", "model.rpn.nms_iou=7")
    errors = capsys.readouterr().err
    assert status == 2
    assert "train.workers" in errors
    assert "did you mean train?" in errors
    assert "model.rpn.nms_iou" in errors


def test_the_error_of_a_missing_file_names_it(capsys):
    assert main("about", "example", fail_if_started, announce, (), ["no_such.yaml"]) == 2
    assert "no_such.yaml" in capsys.readouterr().err


def test_help_shows_an_example_and_the_keys_with_their_defaults():
    # A new process in another folder: the script must find its packages by itself.
    shown = subprocess.run(
        [sys.executable, str(ROOT / "workflows" / "train.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    ).stdout
    assert "python workflows/train.py configs/" in shown
    assert 'train.workers = "auto"' in shown
    assert "infer.batch" not in shown


@pytest.mark.parametrize(
    ("job", "recipe", "message"),
    [
        ("train", "quickstart", "manifest; run maskrcnn-ray prepare_shards"),
        ("sweep", "sweep_lr_batch", "manifest; run maskrcnn-ray prepare_shards"),
        ("evaluate", "quickstart", "manifest; run maskrcnn-ray prepare_shards"),
        ("show_data", "quickstart", "manifest; run maskrcnn-ray prepare_shards"),
        ("register", "quickstart", "there is no evaluation"),
        ("prepare_shards", "my_data", "data/my_data/train.json: no such file"),
    ],
)
def test_missing_inputs_are_refused_before_ray_starts(
    job, recipe, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("pipeline.cluster.session", lambda: pytest.fail("Ray was started"))
    config = str(ROOT / "configs" / f"{recipe}.yaml")
    monkeypatch.setattr(sys, "argv", [job, config, f"output={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "workflows" / f"{job}.py"), run_name="__main__")
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_shards_need_no_tracking_server_but_a_warning_says_who_does(caplog, monkeypatch):
    from workflows.prepare_shards import check

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check(RunConfig.model_validate({"output": "s3://bucket/run"}))
    [warning] = [record.message for record in caplog.records]
    assert "train and later jobs will refuse: output s3://bucket/run is not a local" in warning
    caplog.clear()
    check(RunConfig.model_validate({"output": "/run"}))
    check(RunConfig.model_validate({"output": "gs://b/r", "track": {"uri": "http://mlflow"}}))
    assert not caplog.records


@pytest.mark.ray
def test_a_job_without_its_inputs_says_what_is_missing(ray_cluster, tmp_path, capsys):
    from workflows.register import job

    assert run_job(job, f"output={tmp_path}") == 1
    assert "run maskrcnn-ray evaluate first" in capsys.readouterr().err


@pytest.mark.ray
def test_an_error_of_a_ray_task_is_shown_without_its_traceback(ray_cluster, capsys):
    def damaged():
        raise WeightsError("model.safetensors is damaged")

    def job(_config):
        return ray_cluster.get(ray_cluster.remote(damaged).remote())

    assert run_job(job) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(": model.safetensors is damaged")


@pytest.mark.ray
def test_what_ray_itself_raises_is_one_line(ray_cluster, capsys):
    def job(_config):
        raise OutOfMemoryError("a \x1b[36mworker\x1b[39m used too much memory\nmany more lines")

    assert run_job(job) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "OutOfMemoryError: a worker used too much memory). Check the machines" in line


@pytest.mark.ray
def test_a_bug_keeps_its_traceback(ray_cluster):
    def broken(_config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(broken)


def test_values_are_printed_one_per_line():
    assert format_values({"val/AP": 0.5, "loss": 1.0}, "val/") == "AP          0.5"


def test_overrides_reach_the_job():
    assert load_config(QUICKSTART, ["train.workers=1"]).train.workers == 1


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_says_where_its_results_will_be(path, tmp_path):
    plan = importlib.import_module(f"workflows.{path.stem}").plan
    sentence = plan(load_config(QUICKSTART, [f"output={tmp_path}", "serve.port=8123"]))
    assert ("http://127.0.0.1:8123" if path.stem == "serve" else str(tmp_path)) in sentence
    assert "\n" not in sentence


def test_a_job_says_what_it_does_before_its_slow_imports():
    with socket.socket() as probe:  # bound, but nothing listens
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        process = subprocess.run(
            [sys.executable, "-X", "importtime", "workflows/infer_batch.py", QUICKSTART],
            env={**os.environ, "RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    assert process.returncode == 1
    lines = process.stderr.splitlines()
    imported = [re.match(r"import time:.*\| +(\w+)$", line) for line in lines]
    first_slow = next(
        index for index, line in enumerate(imported) if line and line[1] in SLOW_IMPORTS
    )
    shown = [index for index, line in enumerate(lines) if not line.startswith("import time:")]
    assert "infer_batch.py: predicting on " in lines[shown[0]]
    assert "loading PyTorch, Ray and MLflow" in lines[shown[1]]
    assert shown[1] < first_slow
    assert f"joining the Ray cluster at {address}" in lines[shown[2]]
    assert lines[shown[3]].startswith(
        f"infer_batch.py: no Ray cluster answers at RAY_ADDRESS={address}"
    )
    assert len(shown) == 4


@pytest.mark.ray
def test_shards_that_are_up_to_date_are_said_to_be(ray_cluster, tmp_path, capsys):
    from workflows.prepare_shards import job

    settings = (f"output={tmp_path}", "data.shapes.images=6", "data.shapes.val_images=4")
    assert run_job(job, *settings) == 0
    first = capsys.readouterr()
    assert "writing shards: 6 of 6 images in " in first.err
    assert first.out.count(": written: ") == 2
    assert run_job(job, *settings) == 0
    second = capsys.readouterr()
    assert "writing shards" not in second.err
    assert second.out.count(": up to date, nothing written: ") == 2


@pytest.mark.ray
def test_checking_shards_ends_with_status_1_if_one_is_damaged(ray_cluster, tmp_path, capsys):
    from workflows import prepare_shards

    def run(*arguments):
        settings = [f"output={tmp_path}", "data.shapes.images=6", "data.shapes.val_images=4"]
        return main(
            *("about", "example", prepare_shards.job, prepare_shards.plan, ("data",)),
            # A flag between the settings.
            arguments=[QUICKSTART, settings[0], *arguments, *settings[1:]],
            modes=(prepare_shards.CHECK,),
        )

    assert run() == 0
    assert run("--check") == 0
    assert capsys.readouterr().out.count(": intact: ") == 2
    [shard] = (tmp_path / "shards" / "val").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert run("--check") == 1
    captured = capsys.readouterr()
    assert "shards/val/shard-00000.parquet: its SHA-256 differs" in captured.err
    assert captured.out == ""


@pytest.mark.ray
def test_an_interrupted_job_ends_in_one_line(ray_cluster, capsys):
    def interrupted(_config):
        raise KeyboardInterrupt

    assert run_job(interrupted) == 130
    assert capsys.readouterr().err.endswith(": interrupted; start it again to continue\n")


@pytest.mark.ray
def test_a_mode_takes_its_value_and_excludes_the_others(ray_cluster, tmp_path, capsys):
    modes = (
        Mode("--move-to", "moves", lambda _config, place: f"moved to {place}", announce, "PLACE"),
        Mode("--check", "checks", lambda _config: "checked", announce),
    )

    def run(*arguments):
        common = ("about", "example", fail_if_started, announce, ("data",))
        return main(*common, arguments=[QUICKSTART, f"output={tmp_path}", *arguments], modes=modes)

    assert (run("--move-to", "here"), run("--check")) == (0, 0)
    assert capsys.readouterr().out.split("\n")[:2] == ["moved to here", "checked"]
    with pytest.raises(SystemExit):
        run("--check", "--move-to", "here")
    assert "choose one of --move-to and --check" in capsys.readouterr().err
