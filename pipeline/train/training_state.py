"""Build what a worker trains (detector, optimizer, precision), or restore a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model import Category, Detector, build_detector
from model.weights import LoadReport, load_weights
from model.weights.storage import WEIGHTS_FILE
from model.weights.storage.checksums import file_sha256
from pipeline.config import RunConfig
from pipeline.track.weights_source import resolve_weights
from pipeline.train.checkpoint import (
    SavedState,
    gather_random_states,
    load_checkpoint_weights,
    load_saved_state,
    restore_random_state,
)
from pipeline.train.compilation import compile_features
from pipeline.train.distributed import average_norm_statistics, worker_count
from pipeline.train.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from pipeline.train.precision import Precision
from pipeline.train.weight_average import WeightAverage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedWeights:
    """The weights that a training started from.

    Args:
        source: as in ``train.weights``.
        sha256: of the file.
        report: what happened to each tensor.
    """

    source: str
    sha256: str
    report: LoadReport


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
        average: the average of the detector's weights; None without ``train.ema_decay``. It is
            updated by the optimizer's steps.
        loaded: the weights that this process has loaded to start a training; None otherwise.
        trained_s: how long the training had taken before this process started, seconds.
    """

    detector: Detector
    optimizer: torch.optim.Optimizer
    precision: Precision
    device: torch.device
    start_step: int = 0
    loaded_from: str | None = None
    average: WeightAverage | None = None
    trained_s: float = 0.0
    loaded: LoadedWeights | None = None

    def __post_init__(self) -> None:
        average = self.average
        if average is not None:
            self.optimizer.register_step_post_hook(lambda *_: average.update())

    @property
    def inference_detector(self) -> Detector:
        """The detector to evaluate and save: with averaged weights, if there is an average."""
        return self.detector if self.average is None else self.average.detector

    def average_norm_statistics(self) -> None:
        """Make the statistics of batch norms equal on all workers, which all must call it."""
        average_norm_statistics(self.detector)
        if self.average is not None:
            average_norm_statistics(self.average.detector)

    def distributed_model(self) -> nn.Module:
        """Return the detector, wrapped to exchange gradients if there are several workers."""
        if worker_count() == 1:
            return self.detector
        synced = any(isinstance(module, nn.SyncBatchNorm) for module in self.detector.modules())
        if synced and self.device.type == "cpu":
            logger.info("sync_batch_norm on CPUs: each worker normalizes over its own images")
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
            trained_weights={} if self.average is None else self.average.trained_weights(),
            average_updates=0 if self.average is None else self.average.updates,
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
    loaded = None
    if config.train.weights is not None:
        with resolve_weights(config.train.weights, config) as path:
            digest = file_sha256(path / WEIGHTS_FILE if path.is_dir() else path)
            report = load_weights(
                detector,
                path,
                allow_missing=config.train.allow_missing,
                allow_unused=config.train.allow_unused,
            )
        logger.info("weights from %s: %s", config.train.weights, report)
        loaded = LoadedWeights(config.train.weights, digest, report)
    _prepare(detector, device, config)
    optimizer = build_optimizer(detector, config.train.optimizer)
    decay = config.train.ema_decay
    return TrainingState(
        detector,
        optimizer,
        precision,
        device,
        loaded_from=config.train.weights,
        average=WeightAverage(detector, decay) if decay else None,
        loaded=loaded,
    )


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
    _prepare(detector, device, config)
    saved = load_saved_state(checkpoint)
    average = _restore_average(detector, saved, config.train.ema_decay)
    optimizer = build_optimizer(detector, config.train.optimizer)
    load_optimizer_state(optimizer, detector, saved.optimizer)
    if saved.scaler and precision.scaler.is_enabled():
        precision.scaler.load_state_dict(saved.scaler)
    restore_random_state(saved.random_states, rank, device)
    logger.info("resuming after step %d", saved.step)
    return TrainingState(
        detector,
        optimizer,
        precision,
        device,
        saved.step,
        loaded_from,
        average,
        saved.trained_s,
    )


def _restore_average(detector: Detector, saved: SavedState, decay: float) -> WeightAverage | None:
    """Return the average that a checkpoint's weights are, and load those in training instead.

    Args:
        detector: with the weights of the checkpoint.
        saved: the rest of the checkpoint.
        decay: ``train.ema_decay``, which may have been switched on or off since.
    """
    average = WeightAverage(detector, decay, saved.average_updates) if decay else None
    if saved.trained_weights:
        detector.load_state_dict(saved.trained_weights, strict=False)
    if average is not None and not saved.trained_weights:
        logger.info("train.ema_decay: the average begins with the weights of this checkpoint")
    if average is None and saved.trained_weights:
        logger.warning(
            "train.ema_decay is 0: the averaged weights of the checkpoint are dropped; training "
            "continues with those they are the average of"
        )
    return average


def _prepare(detector: Detector, device: torch.device, config: RunConfig) -> None:
    """Move the detector to its device, in its memory layout, and set what it keeps in training."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    detector.to(device).to(memory_format=layout)
    detector.backbone.checkpoints_activations = config.train.activation_checkpointing
    if config.train.compile:
        logger.info("backbone and pyramid are compiled in the first step, which takes minutes")
        compile_features(detector)
