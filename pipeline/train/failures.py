"""What went wrong in a training, in the words of the worker where it began."""

import ray.train


class TrainingError(RuntimeError):
    """A training failed or cannot begin; the text says why and what to do."""


# What the other workers say when one of them is gone.
CONSEQUENCES = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


def training_error(failure: ray.train.TrainingFailedError) -> TrainingError:
    """The error to show for what Ray Train raised.

    Where several workers failed, those whose message only says that another one vanished come
    last.
    """
    if not isinstance(failure, ray.train.WorkerGroupError):
        cause = getattr(failure, "controller_failure", failure)
        return TrainingError(f"training failed in Ray Train's controller: {describe_error(cause)}")
    causes = sorted(
        failure.worker_failures.items(), key=lambda item: (_is_consequence(item[1]), item[0])
    )
    rank, error = causes[0]
    return TrainingError(f"training failed on worker {rank}: {describe_error(error)}")


def _is_consequence(error: Exception) -> bool:
    text = str(_original(error)).lower()
    return any(word in text for word in CONSEQUENCES)


def _original(error: BaseException) -> BaseException:
    """The exception the user's code raised, below Ray's wrappers."""
    return getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error


def describe_error(error: BaseException) -> str:
    """Type and message of an exception, without the traces that Ray wraps around it."""
    original = _original(error)
    return f"{type(original).__name__}: {original}"
