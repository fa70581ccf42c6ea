"""Out-of-memory errors of every allocator become one line that says what to lower."""

import pytest
import torch

from pipeline.config import RunConfig, TrainConfig
from pipeline.train.failures import TrainingError
from pipeline.train.out_of_memory import (
    StepOutOfMemoryError,
    explain_out_of_memory,
    is_out_of_memory,
    training_remedy,
    with_smaller_micro_batches,
)

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB of "
    "which 1.21 GiB is free. If reserved but unallocated memory is large try setting ..."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL error: Cuda failure 2 'out of memory'"),
    ],
)
def test_every_allocator_is_recognized(error):
    assert is_out_of_memory(error)


def test_the_cpu_allocator_is_recognized():
    # More than the address space of a process can hold.
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("the word out of memory")]
)
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as raised, explain_out_of_memory(torch.device("cpu"), "rest"):
        raise error
    assert raised.value is error


def test_out_of_memory_is_one_line_with_the_amount_and_what_to_lower():
    with (
        pytest.raises(TrainingError) as raised,
        explain_out_of_memory(torch.device("cuda", 1), "lower evaluate.batch (now 4)"),
    ):
        raise torch.OutOfMemoryError(CUDA)
    assert str(raised.value) == (
        "out of memory on cuda:1 (CUDA out of memory. Tried to allocate 2.00 GiB); "
        "to need less, lower evaluate.batch (now 4)"
    )


def test_what_a_block_inside_says_is_kept():
    device = torch.device("cpu")
    with (
        pytest.raises(TrainingError, match=r"lower evaluate.batch$") as raised,
        explain_out_of_memory(device, "lower train.global_batch", StepOutOfMemoryError),
        explain_out_of_memory(device, "lower evaluate.batch"),
    ):
        raise MemoryError
    assert not isinstance(raised.value, StepOutOfMemoryError)


@pytest.mark.parametrize(
    ("global_batch", "workers", "accumulate", "smaller"),
    [(16, 2, 1, 2), (16, 2, 4, 8), (16, 2, 8, None), (6, 2, 1, None), (6, 1, 1, 2)],
)
def test_micro_batches_are_halved_where_that_divides_the_batch(
    global_batch, workers, accumulate, smaller
):
    train = TrainConfig(global_batch=global_batch, workers=workers, accumulate=accumulate)
    halved = with_smaller_micro_batches(train)
    assert (None if halved is None else halved.accumulate) == smaller


def remedy(data=None, precision="fp32", **train):
    train = {"workers": 1, "precision": precision, **train}
    return training_remedy(RunConfig.model_validate({"train": train, "data": data or {}}))


def test_the_remedy_shows_the_configured_values():
    assert remedy(workers=2, global_batch=16, accumulate=2) == (
        "lower train.global_batch (now 16) or raise train.accumulate (now 2) or set "
        "train.precision=bf16 or lower the input size (model.input.short_side, "
        "model.input.long_side)"
    )


@pytest.mark.parametrize(
    ("norm", "train", "named"),
    [
        ("batch_norm", {}, True),
        ("frozen_bn", {}, False),
        ("batch_norm", {"activation_checkpointing": True}, False),
        ("batch_norm", {"compile": True}, False),
    ],
)
def test_recomputing_activations_is_a_remedy_where_it_helps(norm, train, named):
    model = {"backbone": {"norm": norm}}
    config = RunConfig.model_validate({"model": model, "train": {"workers": 1, **train}})
    assert ("train.activation_checkpointing=true" in training_remedy(config)) is named


def test_the_remedy_leaves_out_what_cannot_be_lowered():
    one_image = remedy({"train_short_sides": [640, 800]}, global_batch=2, accumulate=2)
    assert "train.global_batch" not in one_image
    assert one_image.startswith("set train.precision=bf16 or lower the input size (data.train_")
    assert "precision" not in remedy(precision="bf16")
    assert "precision" not in remedy(precision="auto")
