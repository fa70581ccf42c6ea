"""Recognize out-of-memory errors, and say which settings to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.config import RunConfig, TrainConfig
from pipeline.train.failures import TrainingError

# Only torch's CUDA allocator raises OutOfMemoryError. CUDA itself, cuBLAS, cuDNN, NCCL and the CPU
# allocator raise a RuntimeError with one of these texts.
_TEXTS = ("out of memory", "status_alloc_failed", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or this machine has too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(each in text for each in _TEXTS)


class StepOutOfMemoryError(TrainingError):
    """A training step ran out of memory, which smaller micro-batches may avoid."""


@contextmanager
def explain_out_of_memory(
    device: torch.device, remedy: str, kind: type[TrainingError] = TrainingError
) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into one line that ends with ``remedy``.

    Raises:
        TrainingError: of this ``kind``, if the block ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TrainingError) or not is_out_of_memory(error):
            raise  # a TrainingError of a block inside already says what to lower
        # The sentences after the second are about the allocator.
        amount = ". ".join(str(error).split(". ")[:2]).strip()
        raise kind(f"out of memory on {device} ({amount}); to need less, {remedy}") from error


def with_smaller_micro_batches(train: TrainConfig) -> TrainConfig | None:
    """Return the settings with twice the micro-batches per step; None if they cannot be halved."""
    accumulate = 2 * train.accumulate
    if train.global_batch % (train.worker_count * accumulate):
        return None
    return train.model_copy(update={"accumulate": accumulate})


def training_remedy(config: RunConfig) -> str:
    """Say which settings to change for a training that needs less memory."""
    train = config.train
    options = []
    if train.global_batch > train.worker_count * train.accumulate:  # several images at a time
        options.append(f"lower train.global_batch (now {train.global_batch})")
        options.append(f"raise train.accumulate (now {train.accumulate})")
    if train.precision == "fp32":
        options.append("set train.precision=bf16")
    # With frozen norms it saves little.
    trains_norms = config.model.backbone.norm != "frozen_bn"
    if trains_norms and not train.activation_checkpointing and not train.compile:
        options.append("set train.activation_checkpointing=true")
    size = "data.train_short_sides" if config.data.train_short_sides else "model.input.short_side"
    options.append(f"lower the input size ({size}, model.input.long_side)")
    return " or ".join(options)
