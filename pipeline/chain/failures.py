"""Failures of stages: what kind they are, which to retry, and the one line that is shown."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import requests
from mlflow.exceptions import MlflowException
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from sqlalchemy.exc import DBAPIError, OperationalError

from model.config.settings import ConfigError
from pipeline.storage.exclusive_use import FolderInUseError
from pipeline.storage.retries import DamagedRecordError, MissingFileError, StorageError
from pipeline.train.failures import LASTING_ERRORS, error_message

Kind = Literal["transient", "lasting", "settings", "in_use"]

# Named in the messages of errors whose type does not say it.
_TRANSIENT_TEXTS = (
    *("connection refused", "connection reset", "connection aborted", "timed out", "slow down"),
    *("service unavailable", "too many requests", "bad gateway", "gateway timeout"),
    *("temporary failure in name resolution", "broken pipe", "server closed the connection"),
)
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class StageFailure:
    """Why an attempt at a stage failed.

    Args:
        kind: ``settings`` if they are wrong, ``in_use`` if another job holds a folder,
            ``transient`` if another attempt may succeed, else ``lasting``.
        message: what happened and what to do, without line breaks.
    """

    kind: Kind
    message: str


class StageError(RuntimeError):
    """A stage failed for good; its text is one line with the stage and where its log is."""

    def __init__(self, stage: str, failure: StageFailure, log_url: str) -> None:
        super().__init__(stage, failure, log_url)
        self.stage = stage
        self.failure = failure
        self.log_url = log_url

    def __str__(self) -> str:
        return f"stage {self.stage} failed: {self.failure.message} (log: {self.log_url})"


def describe_failure(error: BaseException) -> StageFailure:
    """Return the kind of an error and its text in one line."""
    return StageFailure(_kind(error), one_line(_text(error)))


def one_line(text: str) -> str:
    """Join the lines of a message."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _kind(error: BaseException) -> Kind:
    causes = list(_causes(error))
    if any(isinstance(cause, ConfigError) for cause in causes):
        return "settings"
    if any(isinstance(cause, FolderInUseError) for cause in causes):
        return "in_use"
    return "transient" if any(map(_is_transient, causes)) else "lasting"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, also through Ray's wrappers."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, getattr(each, "cause", None)]


def _is_transient(error: BaseException) -> bool:
    """Return whether the same work may succeed later without any change by the user."""
    if isinstance(error, RayTaskError):
        return False  # its cause decides
    if isinstance(error, RayError):
        return not isinstance(error, TaskCancelledError)
    if isinstance(error, MlflowException):
        return error.get_http_status_code() in _TRANSIENT_STATUS and _has_transient_text(error)
    if isinstance(error, requests.ConnectionError | requests.Timeout | OperationalError):
        return _has_transient_text(error)
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, MissingFileError | DamagedRecordError | DBAPIError):
        return False
    if isinstance(error, StorageError):
        return _has_transient_text(error)
    return not isinstance(error, LASTING_ERRORS) and _has_transient_text(error)


def _has_transient_text(error: BaseException) -> bool:
    text = str(error).lower()
    return any(part in text for part in _TRANSIENT_TEXTS)


def _text(error: BaseException) -> str:
    original = getattr(error, "cause", None) or error
    if isinstance(original, RayError):
        return f"a process or machine was lost ({error_message(original).splitlines()[0]})"
    # Errors that are made for users explain themselves; of others the type matters.
    is_ours = type(original).__module__.partition(".")[0] in ("model", "pipeline", "ops_cuda")
    return str(original) if is_ours and str(original) else error_message(original)
