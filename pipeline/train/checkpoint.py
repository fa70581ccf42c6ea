"""Checkpoints: folders with the detector and everything else that the next step depends on.

``model.safetensors`` and ``model.json`` are what ``load_detector`` reads; with ``train.ema_decay``
these are the averaged weights. ``training.pt`` holds the step, the optimizer state, the gradient
scaler, the random states of each worker, and the weights in training if they are not those of
``model.safetensors``. The position in the data needs no saving: the stream is a pure function of
the step.
"""

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import Detector, save_detector
from model.weights import WeightsError
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import DamagedFileError, verify_checksums, write_checksums
from model.weights.storage.model_folder import read_saved_config
from model.weights.storage.weights_file import check_finite, read_weights_file
from pipeline.train.distributed import gather_objects

TRAINING_FILE = "training.pt"

RandomState = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit the model; the message says what to do."""


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint is missing or damaged; the message names it, without a remedy."""


@dataclass(frozen=True)
class SavedState:
    """The content of ``training.pt``: what a run needs besides the weights to resume.

    The fields are the keys in the file.

    Args:
        step: optimizer steps taken.
        optimizer: optimizer state by parameter name (``optimizer.optimizer_state``).
        scaler: state of the gradient scaler; empty without one.
        random_states: one per worker, by rank (``gather_random_states``).
        trained_weights: if the saved detector has averaged weights, those in training that differ,
            by name (``WeightAverage.trained_weights``).
        average_updates: updates of that average.
        trained_s: how long the training has taken so far, over all submissions, seconds.
    """

    step: int
    optimizer: dict[str, dict[str, Any]] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    random_states: list[RandomState] = field(default_factory=list)
    trained_weights: dict[str, Tensor] = field(default_factory=dict)
    average_updates: int = 0
    trained_s: float = 0.0


def save_checkpoint(folder: Path, detector: Detector, state: SavedState) -> None:
    """Write a checkpoint, replacing an existing one; readers see a complete one or none."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        save_detector(detector, partial)
        torch.save(vars(state), partial / TRAINING_FILE)
        write_checksums(partial, (WEIGHTS_FILE, CONFIG_FILE, TRAINING_FILE))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def verify_checkpoint(folder: Path, shown: str | None = None) -> None:
    """Check that a checkpoint's files are complete and undamaged.

    Without checksums (a checkpoint of an older version) only damage that shows in the structure of
    the files is found, such as a missing end, and weights that are not finite.

    Args:
        folder: folder of the checkpoint.
        shown: how the error message names it; default its path.

    Raises:
        DamagedCheckpointError: a file is missing or damaged.
    """
    shown = shown or str(folder)
    try:
        if verify_checksums(folder, shown=shown):
            return
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"{error.fault}.") from error
    try:
        read_saved_config(folder)
        check_finite(read_weights_file(folder / WEIGHTS_FILE).tensors, folder / WEIGHTS_FILE)
        load_saved_state(folder)
    except (WeightsError, DamagedCheckpointError) as error:
        message = str(error).replace(str(folder), shown)
        raise DamagedCheckpointError(message) from error


def load_checkpoint_weights(folder: Path, detector: Detector) -> None:
    """Load a checkpoint's weights into a detector of the same model.

    Raises:
        DamagedCheckpointError: the file is damaged.
        CheckpointError: names or shapes differ.
    """
    try:
        tensors = read_weights_file(folder / WEIGHTS_FILE).tensors
    except WeightsError as error:
        raise DamagedCheckpointError(str(error)) from error
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        differences = " ".join(str(error).split())  # one line each, with tabs
        raise CheckpointError(
            f"checkpoint {folder.name} holds another model: {differences[:500]}. Restore the model "
            "settings it was trained with, or choose another output."
        ) from error


def load_saved_state(folder: Path) -> SavedState:
    """Read ``training.pt``: everything but the weights. Code in the file is not executed.

    Raises:
        DamagedCheckpointError: the file is missing or damaged.
    """
    try:
        content = torch.load(folder / TRAINING_FILE, map_location="cpu", weights_only=True)
        return SavedState(**content)
    except Exception as error:  # of pickle, zip or the file system
        reason = next(iter(str(error).splitlines()), "").partition(". ")[0]
        raise DamagedCheckpointError(
            f"{folder / TRAINING_FILE} cannot be read ({type(error).__name__}: {reason})."
        ) from error


def gather_random_states(device: torch.device) -> list[RandomState]:
    """Return the random states of all workers, by rank; every worker must call it."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return gather_objects(state)


def restore_random_state(states: list[RandomState], rank: int, device: torch.device) -> None:
    """Restore the random state of worker ``rank``; a worker without a saved one keeps its own."""
    if rank >= len(states):
        return
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda" and "cuda" in states[rank]:
        torch.cuda.set_rng_state(states[rank]["cuda"], device)
