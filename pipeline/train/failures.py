"""Why a training failed, as the message of the worker where the failure started."""

import ray.train


class TrainingError(RuntimeError):
    """A training failed or cannot start; the message says why and what to do."""


# What the other workers report after one of them has died.
_LOST_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


def to_training_error(failure: ray.train.TrainingFailedError) -> TrainingError:
    """Convert Ray Train's exception to the error to show.

    If several workers failed, those that only lost their connection to another one come last.
    """
    if not isinstance(failure, ray.train.WorkerGroupError):
        cause = getattr(failure, "controller_failure", failure)
        return TrainingError(f"training failed in Ray Train's controller: {error_message(cause)}")
    by_cause = sorted(
        failure.worker_failures.items(), key=lambda item: (_lost_peer(item[1]), item[0])
    )
    rank, error = by_cause[0]
    return TrainingError(f"training failed on worker {rank}: {error_message(error)}")


def error_message(error: BaseException) -> str:
    """Return an exception's type and message, without the tracebacks that Ray wraps around it."""
    original = _original(error)
    return f"{type(original).__name__}: {original}"


def _lost_peer(error: Exception) -> bool:
    text = str(_original(error)).lower()
    return any(message in text for message in _LOST_PEER)


def _original(error: BaseException) -> BaseException:
    """Return the exception that user code raised, without Ray's wrappers."""
    return getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error
