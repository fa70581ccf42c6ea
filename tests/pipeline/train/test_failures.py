"""Errors that a retry would repeat end a training, with the message of the first worker."""

import pickle

import pytest
import ray.train
from ray.exceptions import RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
)
from safetensors import SafetensorError

from model.config.settings import ConfigError
from model.weights import WeightsError
from pipeline.storage import MissingFileError, StorageError
from pipeline.train.checkpoint import CheckpointError
from pipeline.train.failures import StopOnLastingError, TrainingError, to_training_error

TRACEBACK = "Traceback (most recent call last):\n  File 'worker.py'\nmany more lines"


def test_a_workers_message_is_shown_without_tracebacks():
    failure = ray.train.WorkerGroupError(
        TRACEBACK, {0: UserExceptionWithTraceback(ValueError("no weights at a.pth"), TRACEBACK)}
    )
    assert (
        str(to_training_error(failure))
        == "training failed on worker 0: ValueError: no weights at a.pth"
    )


def test_the_worker_that_failed_first_comes_before_those_that_lost_its_connection():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    failure = ray.train.WorkerGroupError(
        TRACEBACK, {0: lost, 1: UserExceptionWithTraceback(MemoryError("out of memory"), TRACEBACK)}
    )
    assert str(to_training_error(failure)).endswith("worker 1: MemoryError: out of memory")


def test_a_failure_of_the_controller_is_shown_too():
    failure = ray.train.ControllerError(TimeoutError("workers did not start"))
    assert "TimeoutError: workers did not start" in str(to_training_error(failure))


LASTING = (
    ConfigError(["train.lr: unknown key"]),
    WeightsError("no tensor fits"),
    CheckpointError("the checkpoint holds another model"),
    MissingFileError("s3://bucket/shards/part-0.parquet does not exist"),
    FileNotFoundError("weights/ does not hold model.safetensors"),
    TrainingError("out of memory"),
    SafetensorError("Error while deserializing header"),
    PermissionError("[Errno 13] Permission denied: 'train'"),
    ValueError("no image has 3 labeled keypoints"),
    TypeError("unsupported operand"),
    KeyError("boxes"),
)
# A worker killed by the operating system, and errors of the network.
PASSING = (
    WorkerHealthCheckFailedError("the worker died", RayActorError()),
    StorageError("s3://bucket cannot be read"),
    ConnectionResetError("connection reset by peer"),
    RuntimeError("NCCL error: unhandled system error"),
    TimeoutError("the tracker does not answer"),
)


def after_exception(*errors):
    StopOnLastingError().after_exception(None, dict(enumerate(errors)))


@pytest.mark.parametrize("error", LASTING, ids=lambda error: type(error).__name__)
def test_an_error_that_a_retry_would_repeat_stops_the_training(error):
    lost_peer = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(ray.train.ControllerError) as stopped:
        after_exception(lost_peer, UserExceptionWithTraceback(error, TRACEBACK))
    shown = to_training_error(pickle.loads(pickle.dumps(stopped.value)))
    assert str(shown).startswith("training failed on worker 1: ")
    assert str(shown).endswith(str(error))


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_any_other_error_is_left_to_the_retries(error):
    after_exception(error)


def test_an_error_in_a_task_counts_as_its_cause():
    error = RayTaskError("read", TRACEBACK, ValueError("no columns")).as_instanceof_cause()
    with pytest.raises(ray.train.ControllerError, match="ValueError: no columns"):
        after_exception(error)


def test_an_error_in_a_task_of_a_task_is_shown_as_the_first_cause():
    inner = RayTaskError("read", TRACEBACK, WeightsError("w is damaged")).as_instanceof_cause()
    outer = RayTaskError("plan", TRACEBACK, inner).as_instanceof_cause()
    failure = ray.train.WorkerGroupError(TRACEBACK, {0: outer})
    shown = str(to_training_error(failure))
    assert shown == "training failed on worker 0: WeightsError: w is damaged"


def test_a_training_error_is_shown_without_its_type():
    failure = ray.train.WorkerGroupError(TRACEBACK, {1: TrainingError("out of memory on cuda:1")})
    assert str(to_training_error(failure)) == "training failed on worker 1: out of memory on cuda:1"
