"""A training resumes from the newest intact checkpoint; damaged ones are named and set aside."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import build_detector
from pipeline import storage
from pipeline.train.checkpoint import CheckpointError, SavedState
from pipeline.train.checkpoint_store import (
    DeleteOldCheckpoints,
    list_checkpoints,
    set_aside,
    write_checkpoint,
)
from pipeline.train.resume import clear_interrupted_state, find_checkpoint
from tests.object_stores import STORES

FILES = ("model.safetensors", "model.json", "training.pt", "checksums.json")


@pytest.fixture(scope="module")
def detector(tiny_model_config):
    return build_detector(tiny_model_config)


@pytest.fixture(params=["path", *STORES])
def output(request, tmp_path, detector):
    """The URL of an output with checkpoints after 2, 4 and 6 steps, on disk and in each store."""
    is_local = request.param == "path"
    url = str(tmp_path / "run") if is_local else request.getfixturevalue(request.param)("run")
    for step in (2, 4, 6):
        write_checkpoint(url, detector, SavedState(step, scaler={"scale": 1.0}))
    return url


def url_of(output, step, *parts):
    return storage.join(output, "train", f"step_{step:08d}", *parts)


def names(output):
    """Return the names of the folders in the training's folder."""
    training = storage.join(output, "train")
    files = storage.list_files(training)
    return sorted({file[len(training) :].strip("/").partition("/")[0] for file in files})


def flip(url):
    data = storage.read_bytes(url)
    middle = len(data) // 2
    storage.write_bytes(url, data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])


def zero(url):
    data = storage.read_bytes(url)
    storage.write_bytes(url, data[:20] + bytes(len(data) - 20))


def truncate(url):
    storage.write_bytes(url, storage.read_bytes(url)[:-10])


def test_the_newest_checkpoint_is_found_and_nothing_changes(output, caplog):
    assert find_checkpoint(output) == url_of(output, 6)
    assert names(output) == [f"step_0000000{n}" for n in (2, 4, 6)]
    assert not caplog.records


@pytest.mark.parametrize("name", ["step_00000006.bak", "step_00000006 copy", "step_9x", "old"])
def test_copies_of_a_checkpoint_under_other_names_are_not_resumed_from(output, name):
    copied = storage.join(output, "train", name)
    with storage.fetch(url_of(output, 4)) as folder:
        storage.upload_folder(folder, copied)
    assert find_checkpoint(output) == url_of(output, 6)
    assert storage.exists(copied)


def test_the_newest_step_counts_not_the_longest_name(tmp_path, detector):
    output = str(tmp_path)
    for step in (99_999_998, 100_000_000):
        write_checkpoint(output, detector, SavedState(step))
    assert find_checkpoint(output) == url_of(output, 100_000_000)


def test_a_new_output_has_no_checkpoint(tmp_path):
    assert find_checkpoint(str(tmp_path / "new")) is None


@pytest.mark.parametrize("damage", [flip, zero, truncate, storage.delete], ids=lambda f: f.__name__)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_named_once_and_set_aside(tmp_path, detector, file, damage, caplog):
    output = str(tmp_path)
    for step in (2, 4):
        write_checkpoint(output, detector, SavedState(step))
    damaged = url_of(output, 4, file)
    if file == "checksums.json" and damage in (flip, storage.delete):
        damage = truncate  # in the middle of a digit, or without it, the file is still readable
    damage(damaged)
    content = {path.name: path.read_bytes() for path in Path(url_of(output, 4)).iterdir()}
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint(output) == url_of(output, 2)
    [warning] = caplog.messages
    assert damaged in warning and "damaged-step_00000004" in warning
    assert f"resuming from {url_of(output, 2)}" in warning
    assert names(output) == ["damaged-step_00000004", "step_00000002"]
    kept = tmp_path / "train/damaged-step_00000004"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == content
    assert find_checkpoint(output) == url_of(output, 2)
    assert len(caplog.messages) == 1


def test_several_damaged_checkpoints_are_set_aside_together(output, caplog):
    flip(url_of(output, 6, "model.safetensors"))
    truncate(url_of(output, 4, "training.pt"))
    assert find_checkpoint(output) == url_of(output, 2)
    [warning] = caplog.messages
    assert url_of(output, 6, "model.safetensors") in warning
    assert url_of(output, 4, "training.pt") in warning
    assert names(output) == ["damaged-step_00000004", "damaged-step_00000006", "step_00000002"]
    assert storage.exists(storage.join(output, "train/damaged-step_00000006/training.pt"))


def test_if_all_are_damaged_the_error_says_how_to_start_over_and_that_works(output):
    for step in (2, 4, 6):
        flip(url_of(output, step, "model.safetensors"))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no intact checkpoint is left") as raised:
            find_checkpoint(output)
        message = str(raised.value)
        assert "\n" not in message
        assert all(url_of(output, step, "model.safetensors") in message for step in (2, 4, 6))
    training = storage.join(output, "train")
    assert f"delete {training} or choose another output" in message
    storage.delete(training)
    assert find_checkpoint(output) is None


def test_a_run_does_not_start_over_silently_when_only_damaged_checkpoints_are_left(output):
    flip(url_of(output, 6, "training.pt"))
    assert find_checkpoint(output) == url_of(output, 4)
    for step in (2, 4):
        storage.delete(url_of(output, step))
    with pytest.raises(CheckpointError, match="only damaged-step_00000006, set aside before"):
        find_checkpoint(output)


def test_a_folder_set_aside_twice_gets_another_name(output, detector):
    set_aside(url_of(output, 6))
    write_checkpoint(output, detector, SavedState(6))
    assert set_aside(url_of(output, 6)) == "damaged-step_00000006-2"


def test_an_interrupted_upload_is_no_checkpoint(output):
    for name in ("model.json", "checksums.json"):  # uploaded last
        storage.delete(url_of(output, 6, name))
    assert find_checkpoint(output) == url_of(output, 4)
    assert len(list_checkpoints(output)) == 2


def test_a_checkpoint_without_checksums_is_used(output):
    storage.delete(url_of(output, 6, "checksums.json"))
    assert find_checkpoint(output) == url_of(output, 6)


@pytest.mark.parametrize("file", ["model.safetensors", "model.json", "training.pt"])
def test_without_checksums_a_truncated_file_is_found(output, file, caplog):
    storage.delete(url_of(output, 6, "checksums.json"))
    truncate(url_of(output, 6, file))
    assert find_checkpoint(output) == url_of(output, 4)
    assert url_of(output, 6, file) in caplog.text
    assert "fetched-" not in caplog.text  # the name of the temporary folder


def test_without_checksums_weights_that_are_not_finite_are_found(tmp_path, detector, caplog):
    output = str(tmp_path)
    for step in (2, 4):
        write_checkpoint(output, detector, SavedState(step))
    Path(url_of(output, 4, "checksums.json")).unlink()
    weights = load_file(url_of(output, 4, "model.safetensors"))
    weights["fpn.output.0.bias"][3] = torch.nan
    save_file(weights, url_of(output, 4, "model.safetensors"))
    assert find_checkpoint(output) == url_of(output, 2)
    assert "fpn.output.0.bias has values that are NaN" in caplog.text


@pytest.mark.parametrize("snapshot", ["", '{"ray_ver', json.dumps({"ray_version": "1"})])
def test_rays_snapshot_and_half_written_checkpoints_are_cleared(output, snapshot):
    storage.write_bytes(
        storage.join(output, "train/checkpoint_manager_snapshot.json"), snapshot.encode()
    )
    storage.write_bytes(storage.join(output, "train/.step_00000008.a1b2.partial/training.pt"), b"x")
    storage.write_bytes(storage.join(output, "train/run.json"), b"{}")
    clear_interrupted_state(output)
    left = names(output)
    assert "checkpoint_manager_snapshot.json" not in left
    assert "run.json" in left
    assert find_checkpoint(output) == url_of(output, 6)
    if storage.local_path(output):
        assert not list(Path(output, "train").glob(".*"))


def test_only_the_newest_checkpoints_are_kept_and_damaged_ones_too(output, detector):
    set_aside(url_of(output, 2))
    write_checkpoint(output, detector, SavedState(8))
    keep = DeleteOldCheckpoints(output, keep=2)
    keep.after_report(None, [{}], None)
    assert len(names(output)) == 4
    keep.after_report(None, [{}], checkpoint="any")
    assert names(output) == ["damaged-step_00000002", "step_00000006", "step_00000008"]


def test_the_best_checkpoint_is_kept_beside_the_newest(output, detector):
    best = {"checkpoint": "step_00000004", "metric": "segm/AP", "validations": []}
    storage.write_json(storage.join(output, "train", "best.json"), best)
    write_checkpoint(output, detector, SavedState(8))
    DeleteOldCheckpoints(output, keep=1).after_report(None, [{}], checkpoint="any")
    assert names(output) == ["best.json", "step_00000004", "step_00000008"]
