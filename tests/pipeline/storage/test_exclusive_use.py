"""Two jobs cannot use one folder; one that died, here or elsewhere, is replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from pipeline import storage
from pipeline.storage.exclusive_use import FolderInUseError, Owner, exclusive_use

BEAT_S = 0.2

# Holds a folder until it is killed; its second argument makes it seem to be on another machine.
HOLDER = """
import sys, time
from pipeline.storage import exclusive_use as module
if sys.argv[2]:
    module._machine = lambda: sys.argv[2]
with module.exclusive_use(sys.argv[1], "training", beat_s=0.2):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["path", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request, tmp_path):
    """The URL of a folder on disk and in S3."""
    return request.getfixturevalue("s3")("out") if request.param == "s3" else str(tmp_path / "out")


@pytest.fixture
def holder(folder):
    """A function that starts a process which holds the folder."""
    processes = []

    def start(machine=""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, folder, machine], stdout=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout.readline() == b"holds\n"
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def owner_of(folder):
    return Owner(**storage.read_json(f"{folder}/owner.json"))


def test_a_folder_is_free_again_after_its_use(folder):
    for _ in range(2):
        with exclusive_use(folder, "training", BEAT_S):
            assert owner_of(folder).pid == os.getpid()
    assert not storage.exists(f"{folder}/owner.json")


def test_a_failed_job_frees_the_folder(folder):
    with pytest.raises(KeyError), exclusive_use(folder, "training", BEAT_S):
        raise KeyError
    assert not storage.exists(f"{folder}/owner.json")


@pytest.mark.parametrize("machine", ["", "elsewhere"])
def test_a_folder_in_use_is_refused_with_the_owner(folder, holder, machine):
    process = holder(machine)
    with (
        pytest.raises(FolderInUseError, match=rf"in use by .*\(training, process {process.pid} on"),
        exclusive_use(folder, "training", BEAT_S),
    ):
        pass
    assert owner_of(folder).pid == process.pid


@pytest.mark.parametrize("machine", ["", "elsewhere"])
def test_a_killed_job_is_replaced(folder, holder, machine):
    process = holder(machine)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    with exclusive_use(folder, "training", beat_s=BEAT_S if machine else 10.0):
        # Of this machine it is known to be dead; of another one the count has to stand still.
        assert time.monotonic() - start < 8.0
        assert owner_of(folder).pid == os.getpid()


def test_a_reused_process_id_is_not_the_owner(folder):
    own = Owner.of_this_process("training")
    earlier = replace(own, token="earlier", started=psutil.boot_time() - 1000)
    storage.write_json(f"{folder}/owner.json", asdict(earlier))
    with exclusive_use(folder, "training", BEAT_S):
        assert owner_of(folder).token != "earlier"


@pytest.mark.parametrize("text", ["{", "[]", '{"token": "a"}'])
def test_a_damaged_record_is_replaced_with_a_warning(folder, caplog, text):
    storage.write_bytes(f"{folder}/owner.json", text.encode())
    with exclusive_use(folder, "training", BEAT_S):
        assert owner_of(folder).pid == os.getpid()
    assert "owner.json" in caplog.text


def test_a_job_that_lost_its_folder_says_so_and_leaves_it(folder, caplog):
    with exclusive_use(folder, "training", BEAT_S):
        other = replace(Owner.of_this_process("training"), token="other")
        storage.write_bytes(f"{folder}/owner.json", json.dumps(asdict(other)).encode())
        time.sleep(4 * BEAT_S)
    assert "has taken over the folder" in caplog.text
    assert owner_of(folder).token == "other"
