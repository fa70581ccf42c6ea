"""Checkpoints: folders with the detector and everything else that the next step depends on.

``model.safetensors`` and ``model.json`` are what ``load_detector`` reads; ``training.pt`` holds the
step, the optimizer state, the gradient scaler and the random states of each worker. The position in
the data needs no saving: the stream is a pure function of the step.
"""

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from model import Detector, save_detector
from model.weights.storage import WEIGHTS_FILE
from pipeline.train.distributed import gather_objects

TRAINING_FILE = "training.pt"

RandomState = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit the model; the message says what to do."""


@dataclass(frozen=True)
class SavedState:
    """The content of ``training.pt``: what a run needs besides the weights to resume.

    The fields are the keys in the file.

    Args:
        step: optimizer steps taken.
        optimizer: optimizer state by parameter name (``optimizer.optimizer_state``).
        scaler: state of the gradient scaler; empty without one.
        random_states: one per worker, by rank (``gather_random_states``).
    """

    step: int
    optimizer: dict[str, dict[str, Any]] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    random_states: list[RandomState] = field(default_factory=list)


def save_checkpoint(folder: Path, detector: Detector, state: SavedState) -> None:
    """Write a checkpoint, replacing an existing one; readers see a complete one or none."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        save_detector(detector, partial)
        torch.save(vars(state), partial / TRAINING_FILE)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint_weights(folder: Path, detector: Detector) -> None:
    """Load a checkpoint's weights into a detector of the same model.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        detector.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint {folder.name} holds another model: {error}. Restore the model settings it "
            "was trained with, or choose another output."
        ) from error


def load_saved_state(folder: Path) -> SavedState:
    """Read ``training.pt``: everything but the weights. Code in the file is not executed.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        content = torch.load(folder / TRAINING_FILE, map_location="cpu", weights_only=True)
        return SavedState(**content)
    except Exception as error:  # of pickle, zip or the file system; the advice is the same
        raise CheckpointError(
            f"{folder / TRAINING_FILE} cannot be read ({type(error).__name__}: {error}); "
            "delete this checkpoint to continue from the previous one."
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
