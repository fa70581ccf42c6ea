"""Build what a worker trains (detector, optimizer, precision), or restore a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model import Category, Detector, build_detector
from model.weights import load_weights
from pipeline.config import RunConfig
from pipeline.track.weights_source import resolve_weights
from pipeline.train.checkpoint import (
    SavedState,
    gather_random_states,
    load_checkpoint_weights,
    load_saved_state,
    restore_random_state,
)
from pipeline.train.distributed import worker_count
from pipeline.train.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from pipeline.train.precision import Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """A detector in training, in memory. A checkpoint keeps its `SavedState`.

    Args:
        detector: on ``device``.
        optimizer: over the detector's trainable parameters.
        precision: autocast and gradient scaling.
        device: this worker's device.
        start_step: optimizer steps taken before this process started.
        loaded_from: the checkpoint or weights that training started with, if any.
    """

    detector: Detector
    optimizer: torch.optim.Optimizer
    precision: Precision
    device: torch.device
    start_step: int = 0
    loaded_from: str | None = None

    def distributed_model(self) -> nn.Module:
        """Return the detector, wrapped to exchange gradients if there are several workers."""
        if worker_count() == 1:
            return self.detector
        # Buffers are not broadcast in each step: average_norm_statistics synchronizes them when
        # they are needed.
        model: nn.Module = DistributedDataParallel(
            self.detector, gradient_as_bucket_view=True, broadcast_buffers=False
        )
        return model

    def state_to_save(self, step: int) -> SavedState:
        """Return what a checkpoint after ``step`` steps keeps; every worker must call it."""
        return SavedState(
            step=step,
            optimizer=optimizer_state(self.optimizer, self.detector),
            scaler=self.precision.scaler.state_dict(),
            random_states=gather_random_states(self.device),
        )


def new_training_state(
    config: RunConfig, categories: Sequence[Category], device: torch.device
) -> TrainingState:
    """Build a detector, freshly initialized or with the weights of ``train.weights``.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
        ValueError: the device does not support the precision.
    """
    precision = Precision(config.train.precision, device)
    detector = build_detector(config.model, categories)
    if config.train.weights is not None:
        with resolve_weights(config.train.weights, config) as path:
            report = load_weights(
                detector,
                path,
                allow_missing=config.train.allow_missing,
                allow_unused=config.train.allow_unused,
            )
        logger.info("weights from %s: %s", config.train.weights, report)
    _move_to(device, detector, config.train.channels_last)
    optimizer = build_optimizer(detector, config.train.optimizer)
    return TrainingState(detector, optimizer, precision, device, loaded_from=config.train.weights)


def resume_training_state(
    config: RunConfig,
    categories: Sequence[Category],
    device: torch.device,
    checkpoint: Path,
    rank: int,
    loaded_from: str,
) -> TrainingState:
    """Restore detector, optimizer, scaler and this worker's random state from a checkpoint.

    Learning rates, decays and momenta are those of ``config``, not the checkpoint's.

    Args:
        config: the job's settings.
        categories: classes of the dataset.
        device: this worker's device.
        checkpoint: local folder of the checkpoint.
        rank: rank of this worker.
        loaded_from: URL of the checkpoint, for error messages.

    Raises:
        CheckpointError: the checkpoint cannot be read or holds another model.
        ValueError: the device does not support the precision.
    """
    precision = Precision(config.train.precision, device)
    detector = build_detector(config.model, categories)
    load_checkpoint_weights(checkpoint, detector)
    _move_to(device, detector, config.train.channels_last)
    optimizer = build_optimizer(detector, config.train.optimizer)
    saved = load_saved_state(checkpoint)
    load_optimizer_state(optimizer, detector, saved.optimizer)
    if saved.scaler and precision.scaler.is_enabled():
        precision.scaler.load_state_dict(saved.scaler)
    restore_random_state(saved.random_states, rank, device)
    logger.info("resuming after step %d", saved.step)
    return TrainingState(detector, optimizer, precision, device, saved.step, loaded_from)


def _move_to(device: torch.device, detector: Detector, channels_last: bool) -> None:
    detector.to(device)
    detector.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
