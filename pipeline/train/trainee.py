"""What a worker trains: detector, optimiser and arithmetic, new or from a checkpoint."""

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
    TrainingState,
    gather_random_states,
    load_training_state,
    load_weights_of,
    restore_random_state,
)
from pipeline.train.loss_normalization import worker_count
from pipeline.train.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from pipeline.train.precision import Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trainee:
    """A detector in training.

    Args:
        detector: on ``device``.
        optimizer: over its trainable parameters.
        precision: autocast and gradient scaling.
        device: of this worker.
        step: optimiser steps taken before.
    """

    detector: Detector
    optimizer: torch.optim.Optimizer
    precision: Precision
    device: torch.device
    step: int = 0

    def distributed(self) -> nn.Module:
        """The detector, exchanging gradients where there are several workers."""
        if worker_count() == 1:
            return self.detector
        # Buffers are not broadcast each step: average_norm_statistics does it where it matters.
        model: nn.Module = DistributedDataParallel(
            self.detector, gradient_as_bucket_view=True, broadcast_buffers=False
        )
        return model

    def state_after(self, step: int) -> TrainingState:
        """What a checkpoint holds beside the weights; every worker must call it."""
        return TrainingState(
            step=step,
            optimizer=optimizer_state(self.optimizer, self.detector),
            scaler=self.precision.scaler.state_dict(),
            random_states=gather_random_states(self.device),
        )


def new_trainee(config: RunConfig, categories: Sequence[Category], device: torch.device) -> Trainee:
    """A detector at initialisation, or with the weights that ``train.weights`` names.

    Raises:
        WeightsError: they cannot be read or do not fit.
        ValueError: the device lacks the wanted precision.
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
    _place(detector, config.train.channels_last, device)
    return Trainee(detector, build_optimizer(detector, config.train.optimizer), precision, device)


def resumed_trainee(
    config: RunConfig,
    categories: Sequence[Category],
    device: torch.device,
    checkpoint: Path,
    rank: int,
) -> Trainee:
    """The detector, optimiser, scaler and this worker's random state as a checkpoint left them.

    Rates, decays and momenta are those of ``config``, not the checkpoint's.

    Raises:
        CheckpointError: it cannot be read or is of another model.
        ValueError: the device lacks the wanted precision.
    """
    precision = Precision(config.train.precision, device)
    detector = build_detector(config.model, categories)
    load_weights_of(checkpoint, detector)
    _place(detector, config.train.channels_last, device)
    optimizer = build_optimizer(detector, config.train.optimizer)
    state = load_training_state(checkpoint)
    load_optimizer_state(optimizer, detector, state.optimizer)
    if state.scaler and precision.scaler.is_enabled():
        precision.scaler.load_state_dict(state.scaler)
    restore_random_state(state.random_states, rank, device)
    logger.info("continuing after step %d", state.step)
    return Trainee(detector, optimizer, precision, device, state.step)


def _place(detector: Detector, channels_last: bool, device: torch.device) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    detector.to(device)
    detector.to(memory_format=layout)
