"""gpu_check.sh on a machine without a GPU, and its tests on one with few packages."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_record, inference, train_step

ROOT = Path(__file__).resolve().parents[2]
BARE_MACHINE = Path(__file__).with_name("bare_machine")


def gpu_check(*arguments, **environment):
    command = ["bash", str(ROOT / "benchmarks/gpu_check.sh"), *arguments]
    # Hides the GPU, if there is one.
    settings = {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)


@pytest.fixture(scope="module")
def dry_run():
    """The commands of each step."""
    done = gpu_check("--dry-run", WHEELS="wheels of mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no CUDA device that torch can use: nothing is run")
    parts = re.split(r"\n== (\w+)\n", done.stdout)
    return {
        step: text.strip().split("\n") for step, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_a_dry_run_prints_commands_that_the_programs_accept(dry_run, monkeypatch):
    assert list(dry_run) == [
        *("setup", "build", "tests", "memcheck", "ops", "infer", "train", "profile")
    ]
    assert "--find-links 'wheels of mine'" in dry_run["setup"][0]
    programs = {"inference": inference, "train_step": train_step}
    for command in dry_run["infer"] + dry_run["train"] + dry_run["profile"]:
        module, *arguments = shlex.split(command.partition(" -m ")[2])
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        options = programs[module.partition(".")[2]]._parse()
        assert options.device == "cuda"


def test_an_unknown_step_is_named_with_the_known_ones():
    done = gpu_check("--dry-run", "tets")
    assert done.returncode == 2
    assert "unknown step tets; steps: setup build tests" in done.stderr


@pytest.mark.soak
def test_all_tests_for_a_gpu_can_be_collected_with_the_packages_of_a_bare_machine(dry_run):
    environment = os.environ | {"PYTHONPATH": f"{BARE_MACHINE}{os.pathsep}{ROOT}"}
    running = [
        subprocess.Popen(
            [*shlex.split(command), "--collect-only", "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in dry_run["tests"]
    ]
    outputs = [process.communicate()[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output
    collected = "".join(outputs)
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if has_gpu_tests(path)]
    assert len(files) > 5
    for file in files:
        assert f"{file.relative_to(ROOT)}::" in collected, output


def has_gpu_tests(path):
    # This one reads shards through Ray Data; test_device_copy.py tests the copies without it.
    return "pytest.mark.gpu" in path.read_text() and path.name not in {
        "test_training_stream_gpu.py",
        Path(__file__).name,
    }


def test_the_packages_to_carry_are_those_of_the_constraints():
    pinned = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").split()
    carried = [
        line
        for line in (ROOT / "benchmarks/gpu_check_wheels.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert carried and all("==" in line for line in carried)
    constrained = {line.partition("==")[0] for line in pinned}
    for line in carried:
        assert line in pinned or line.partition("==")[0] not in constrained


def test_a_command_that_passed_is_recorded_until_it_fails(tmp_path):
    record, log = tmp_path / "tests.json", tmp_path / "tests.log"
    log.write_text("collected\n12 passed in 3.4s\n\n")
    assert not gpu_record.has_passed(record, "pytest a")
    gpu_record.add(record, "pytest a", 0, 4, log)
    gpu_record.add(record, "pytest b", 124, 536, log)
    assert gpu_record.has_passed(record, "pytest a")
    assert not gpu_record.has_passed(record, "pytest b")
    assert json.loads(record.read_text())["commands"][0] == {
        "command": "pytest a",
        "exit_status": 0,
        "seconds": 4,
        "last_line": "12 passed in 3.4s",
    }
    gpu_record.add(record, "pytest a", 1, 4, log)
    assert not gpu_record.has_passed(record, "pytest a")
