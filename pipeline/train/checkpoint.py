"""A checkpoint: a folder with the detector and everything the next step depends on.

``model.safetensors`` and ``model.json`` are what ``load_detector`` reads; ``training.pt`` holds the
step, the optimiser's memory, the gradient scaler and the random states of each worker. The place in
the data is the step: the stream is a pure function of it.
"""

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from model import Detector, save_detector
from pipeline.train.loss_normalization import worker_count

MODEL_FILE = "model.safetensors"
TRAINING_FILE = "training.pt"

RandomState = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the present model or cannot be read; the text says what to do."""


@dataclass(frozen=True)
class TrainingState:
    """What a run needs beside the weights to go on.

    Args:
        step: optimiser steps taken.
        optimizer: memory by parameter name (``optimizer.optimizer_state``).
        scaler: state of the gradient scaler; empty without one.
        random_states: one per worker, by rank (``gather_random_states``).
    """

    step: int
    optimizer: dict[str, dict[str, Any]] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    random_states: list[RandomState] = field(default_factory=list)


def save_checkpoint(folder: Path, detector: Detector, state: TrainingState) -> None:
    """Write a checkpoint, replacing one that stands; a reader sees a whole one or none."""
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


def load_weights_of(folder: Path, detector: Detector) -> None:
    """Put the checkpoint's weights into a detector of the same shape.

    Raises:
        CheckpointError: the shapes or names differ.
    """
    try:
        detector.load_state_dict(load_file(folder / MODEL_FILE))
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint {folder.name} is of another model: {error}. Restore the model settings"
            " it was trained with, or choose another output."
        ) from error


def load_training_state(folder: Path) -> TrainingState:
    """Read everything but the weights; no code in the file is run.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        content = torch.load(folder / TRAINING_FILE, map_location="cpu", weights_only=True)
        return TrainingState(**content)
    except Exception as error:  # pickle, zip and file errors: all mean the same to the user
        raise CheckpointError(
            f"{folder / TRAINING_FILE} cannot be read ({type(error).__name__}: {error}); "
            "delete this checkpoint to go on from the one before."
        ) from error


def gather_random_states(device: torch.device) -> list[RandomState]:
    """The random states of all workers, by rank; every worker must call it."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if worker_count() == 1:
        return [state]
    states: list[RandomState] = [{} for _ in range(worker_count())]
    dist.all_gather_object(states, state)
    return states


def restore_random_state(states: list[RandomState], rank: int, device: torch.device) -> None:
    """Give worker ``rank`` its state back; a worker that did not exist then keeps its own."""
    if rank >= len(states):
        return
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda" and "cuda" in states[rank]:
        torch.cuda.set_rng_state(states[rank]["cuda"], device)
