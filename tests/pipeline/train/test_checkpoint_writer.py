"""Checkpoints in a bucket are uploaded while training goes on, one at a time."""

import threading

import pytest

from model import build_detector
from pipeline import storage
from pipeline.train import checkpoint_writer
from pipeline.train.checkpoint import SavedState, verify_checkpoint
from pipeline.train.checkpoint_store import list_checkpoints
from pipeline.train.checkpoint_writer import CheckpointWriter


@pytest.fixture(scope="module")
def detector(tiny_model_config):
    return build_detector(tiny_model_config)


@pytest.fixture
def output(s3, monkeypatch):
    # Outside a training, Ray Train does not know where its checkpoints are.
    monkeypatch.setattr(checkpoint_writer, "reported_checkpoint", lambda url: url)
    return s3("run")


@pytest.mark.s3
def test_a_checkpoint_counts_once_it_is_uploaded(output, detector):
    writer = CheckpointWriter(output)
    checkpoint = writer.write(detector, SavedState(4), upload_later=True)
    assert list_checkpoints(output) == []
    url = writer.upload(checkpoint, "step_00000004")
    assert list_checkpoints(output) == [url]
    with storage.fetch(url) as folder:
        verify_checkpoint(folder)


@pytest.mark.s3
def test_the_next_checkpoint_waits_for_the_upload(output, detector):
    writer = CheckpointWriter(output)
    first = writer.write(detector, SavedState(4), upload_later=True)
    second = threading.Thread(target=writer.write, args=(detector, SavedState(8), False))
    second.start()
    second.join(1.0)
    assert second.is_alive()
    writer.upload(first, "step_00000004")
    second.join(30.0)
    assert [url.rpartition("/")[2] for url in list_checkpoints(output)] == [
        "step_00000008",
        "step_00000004",
    ]


@pytest.mark.s3
def test_a_failed_upload_leaves_no_files_and_does_not_block_the_next_checkpoint(
    output, detector, monkeypatch
):
    def refuse(path, url):
        raise storage.StorageError("the bucket refuses")

    writer = CheckpointWriter(output)
    checkpoint = writer.write(detector, SavedState(4), upload_later=True)
    with monkeypatch.context() as broken:
        broken.setattr(storage, "upload_file", refuse)
        with pytest.raises(storage.StorageError, match="refuses"):
            writer.upload(checkpoint, "step_00000004")
    assert not storage.exists(checkpoint.path)
    writer.write(detector, SavedState(8), upload_later=False)
    assert [url.rpartition("/")[2] for url in list_checkpoints(output)] == ["step_00000008"]


def test_a_local_output_has_nothing_to_upload(tmp_path):
    assert not CheckpointWriter(str(tmp_path)).can_upload_later
