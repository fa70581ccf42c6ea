"""The checkpoints in an output folder: write, list and delete them, and set damaged ones aside.

A folder ``train/step_*`` counts as a checkpoint when all its files are there. On disk it appears
with all files at once; in S3 the settings are uploaded after the weights, and the checksums last.
"""

import logging
from pathlib import Path
from typing import Any

import ray.train

from model import Detector
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE
from model.weights.storage.model_folder import checkpoint_step
from pipeline import storage
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.storage.scratch import scratch_folder
from pipeline.track.stored_weights import checkpoint_in
from pipeline.train.checkpoint import TRAINING_FILE, SavedState, save_checkpoint

logger = logging.getLogger(__name__)

DAMAGED_PREFIX = "damaged-"
_FILES = (WEIGHTS_FILE, TRAINING_FILE, CONFIG_FILE)


def training_url(output: str) -> str:
    """Return the folder of an output's training."""
    return storage.join(output, TRAINING_FOLDER)


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint after ``step`` steps."""
    return f"step_{step:08d}"


def checkpoint_url(output: str, name: str) -> str:
    """Return the folder of a checkpoint."""
    return storage.join(training_url(output), name)


def write_checkpoint(output: str, detector: Detector, state: SavedState) -> str:
    """Write a checkpoint, replacing one of the same step, and return its URL."""
    url = checkpoint_url(output, checkpoint_name(state.step))
    local = storage.local_path(url)
    if local is not None:
        save_checkpoint(local, detector, state)
        return url
    with scratch_folder("checkpoint") as scratch:
        folder = scratch / "checkpoint"
        save_checkpoint(folder, detector, state)
        upload_checkpoint(folder, url)
    return url


def upload_checkpoint(folder: Path, url: str) -> None:
    """Upload a checkpoint, replacing what is there; it counts once its last file is there."""
    storage.delete(url)
    for name in (*_FILES, CHECKSUMS_FILE):
        storage.upload_file(folder / name, storage.join(url, name))


def list_checkpoints(output: str) -> list[str]:
    """Return the URLs of the checkpoints in an output folder, newest first.

    The folder of an interrupted upload is left out. One that lost a file after its checksums were
    written is not: it is damaged.
    """
    training = training_url(output)
    names = {
        step: name
        for name, files in _files_by_folder(output).items()
        if (step := checkpoint_step(name)) is not None
        and (CHECKSUMS_FILE in files or files >= {*_FILES})
    }
    return [storage.join(training, names[step]) for step in sorted(names, reverse=True)]


def list_damaged(output: str) -> list[str]:
    """Return the names of the checkpoints that were set aside."""
    return sorted(name for name in _files_by_folder(output) if name.startswith(DAMAGED_PREFIX))


def set_aside(url: str) -> str:
    """Rename a damaged checkpoint, so that nothing reads it any more; return its new name."""
    training, _, name = url.rpartition("/")
    aside = f"{DAMAGED_PREFIX}{name}"
    count = 1
    while storage.exists(storage.join(training, aside)):
        count += 1
        aside = f"{DAMAGED_PREFIX}{name}-{count}"
    storage.move_folder(url, storage.join(training, aside))
    return aside


def delete_partial_checkpoints(output: str) -> None:
    """Delete what writers left that were killed; none may be at work."""
    training = storage.local_path(training_url(output))
    for path in training.glob(".step_*.partial") if training else ():
        storage.delete(str(path))


class DeleteOldCheckpoints(ray.train.UserCallback):  # type: ignore[misc]
    """Deletes old checkpoints whenever a new one has been reported, also those of earlier jobs.

    The best one is kept beside the newest. Ray Train would delete only what it knows from this job.

    Args:
        output: the output folder of the training.
        keep: number of newest checkpoints to keep.
    """

    def __init__(self, output: str, keep: int) -> None:
        self.output = output
        self.keep = keep

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Delete all but the newest checkpoints and the best; a failure only logs a warning."""
        if checkpoint is None:
            return
        try:
            used = checkpoint_in(training_url(self.output))
            for url in list_checkpoints(self.output)[self.keep :]:
                if url != used:
                    storage.delete(url)
        except storage.StorageError as error:
            logger.warning("old checkpoints are not deleted: %s", error)


def _files_by_folder(output: str) -> dict[str, set[str]]:
    """Return the names of the files in each folder of an output's training."""
    training = training_url(output)
    files_of: dict[str, set[str]] = {}
    for file in storage.list_files(training):
        folder, _, name = file[len(training) :].strip("/").partition("/")
        files_of.setdefault(folder, set()).add(name)
    return files_of
