"""Save checkpoints during training; in an object store, upload them while training goes on."""

import threading
from pathlib import Path

import ray.train

from model import Detector
from pipeline import storage
from pipeline.storage.scratch import ScratchFolder
from pipeline.train.checkpoint import SavedState, save_checkpoint
from pipeline.train.checkpoint_store import (
    checkpoint_name,
    checkpoint_url,
    upload_checkpoint,
    write_checkpoint,
)


class CheckpointWriter:
    """Writes the checkpoints of one training; used by rank 0.

    Args:
        output: the output folder of the training.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._scratch: ScratchFolder | None = None
        self._no_upload = threading.Event()
        self._no_upload.set()

    @property
    def can_upload_later(self) -> bool:
        """Whether there is something to upload: not if the output is local."""
        return storage.local_path(self._output) is None

    def write(
        self, detector: Detector, state: SavedState, upload_later: bool
    ) -> ray.train.Checkpoint:
        """Write a checkpoint once the one before is uploaded.

        Args:
            detector: weights to save.
            state: what else to save.
            upload_later: write it on this machine only; Ray Train then calls `upload`.

        Returns:
            The checkpoint as `ray.train.report` takes it.
        """
        # One at a time: a slow store must not fill this machine's disk.
        self._no_upload.wait()
        if not upload_later:
            return reported_checkpoint(write_checkpoint(self._output, detector, state))
        self._scratch = ScratchFolder("checkpoint")
        folder = self._scratch.path / checkpoint_name(state.step)
        try:
            save_checkpoint(folder, detector, state)
        except BaseException:
            self._scratch.delete()  # the disk may be full
            raise
        self._no_upload.clear()
        return ray.train.Checkpoint.from_directory(str(folder))

    def upload(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Upload a checkpoint of `write` and delete it here; called by Ray Train in a thread.

        It counts once its last file is there: a training that is killed before resumes from the
        checkpoint before.
        """
        folder = Path(checkpoint.path)
        try:
            url = checkpoint_url(self._output, name)
            upload_checkpoint(folder, url)
            return reported_checkpoint(url)
        finally:
            if self._scratch is not None:
                self._scratch.delete()
            self._no_upload.set()


def reported_checkpoint(url: str) -> ray.train.Checkpoint:
    """Return a checkpoint of the output folder as Ray Train's object."""
    context = ray.train.get_context().get_storage()
    name = url.rpartition("/")[2]
    return ray.train.Checkpoint(
        f"{context.experiment_fs_path}/{name}", filesystem=context.storage_filesystem
    )
