"""Temporary folders go with their processes, even with those that are killed."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from pipeline.storage.scratch import ScratchFolder, scratch_folder

HOLD = """
import sys, time
from pipeline.storage.scratch import ScratchFolder
folder = ScratchFolder("test")
(folder.path / "weights").write_bytes(b"x" * 1000)
print(folder.path, flush=True)
time.sleep(600)
"""
HOUR_S = 3600


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(temporary):
    """A process that has a folder; it and the folder's root."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    yield process, temporary / os.path.relpath(process.stdout.readline().strip(), temporary)
    process.kill()
    process.wait()
    process.stdout.close()


def age(path):
    root = path.parent
    os.utime(root, (time.time() - HOUR_S,) * 2)
    return root


def test_a_folder_is_deleted_at_the_end_of_its_block(temporary):
    with pytest.raises(RuntimeError), scratch_folder("weights") as folder:
        assert folder.is_dir() and not list(folder.iterdir())
        (folder / "file").write_text("x")
        raise RuntimeError
    assert not list(temporary.iterdir())


def test_the_folder_of_a_killed_process_is_deleted_by_the_next_one(holder):
    process, folder = holder
    root = age(folder)
    ScratchFolder("other").delete()
    assert folder.is_dir()  # its process lives
    process.kill()
    process.wait()
    ScratchFolder("other").delete()
    assert not root.exists()


def test_a_folder_that_is_just_being_made_is_left_alone(holder):
    process, folder = holder
    process.kill()
    process.wait()
    ScratchFolder("other").delete()
    assert folder.is_dir()


def test_folders_of_others_and_of_this_process_stay(temporary):
    own = ScratchFolder("own")
    age(own.path)
    (temporary / "maskrcnn-ray-file").write_text("not a folder")
    (temporary / "else").mkdir()
    for name in ("maskrcnn-ray-file", "else"):
        os.utime(temporary / name, (0, 0))
    ScratchFolder("other").delete()
    assert own.path.is_dir()
    assert {path.name for path in temporary.iterdir()} >= {"maskrcnn-ray-file", "else"}
    own.delete()
    own.delete()
