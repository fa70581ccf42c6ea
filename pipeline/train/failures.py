"""Failures of a training: which to retry, and the message of the worker that failed first."""

from collections.abc import Mapping
from typing import Any

import ray.train
from safetensors import SafetensorError

from pipeline.train.checkpoint import CheckpointError


class TrainingError(RuntimeError):
    """A training failed or cannot start; the message says why and what to do."""


# Errors that a retry would repeat: wrong settings or weights (both ValueErrors), data and code. A
# retry can help against all others: a lost worker, machine, connection or store.
LASTING_ERRORS = (
    TrainingError,
    CheckpointError,
    SafetensorError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    NotImplementedError,
)

# Texts of the errors that workers report after another one has died.
_LOST_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


class StopOnLastingError(ray.train.UserCallback):  # type: ignore[misc]
    """Ends a training, without retries, at an error that a retry would repeat.

    Ray Train retries every worker failure ``train.max_failures`` times, whatever its cause. It does
    not retry failures of its controller, which calls this.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise if one of the workers' errors is lasting.

        Raises:
            ControllerError: holds the TrainingError to show.
        """
        lasting = {
            rank: error
            for rank, error in worker_exceptions.items()
            if isinstance(_original(error), LASTING_ERRORS)
        }
        if lasting:
            raise ray.train.ControllerError(_first_error(lasting))


def to_training_error(failure: ray.train.TrainingFailedError) -> TrainingError:
    """Convert Ray Train's exception to the error to show."""
    if isinstance(failure, ray.train.WorkerGroupError):
        return _first_error(failure.worker_failures)
    cause = getattr(failure, "controller_failure", failure)
    if isinstance(cause, TrainingError):
        return cause
    return TrainingError(f"training failed in Ray Train's controller: {error_message(cause)}")


def _first_error(failures: Mapping[int, Exception]) -> TrainingError:
    """Return the error to show for the errors of some workers, by rank.

    Workers that only lost their connection to another one come last.
    """
    rank, error = min(failures.items(), key=lambda item: (_lost_peer(item[1]), item[0]))
    original = _original(error)
    if isinstance(original, TrainingError):
        return type(original)(f"training failed on worker {rank}: {original}")
    return TrainingError(f"training failed on worker {rank}: {error_message(original)}")


def error_message(error: BaseException) -> str:
    """Return an exception's type and message, without the tracebacks that Ray wraps around it."""
    original = _original(error)
    return f"{type(original).__name__}: {original}"


def _lost_peer(error: Exception) -> bool:
    text = str(_original(error)).lower()
    return any(message in text for message in _LOST_PEER)


def _original(error: BaseException) -> BaseException:
    """Return the exception that user code raised, without Ray's wrappers."""
    while inner := getattr(error, "_base_exc", None) or getattr(error, "cause", None):
        error = inner
    return error
