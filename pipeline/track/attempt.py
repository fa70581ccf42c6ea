"""Ask MLflow or its artifact store for something that may hang or fail, without raising."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import requests
import urllib3
from mlflow.exceptions import MlflowException

_LOST = (
    ConnectionError,
    TimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    # Also the cause of the errors of boto, and of MLflow's own.
    urllib3.exceptions.HTTPError,
)


@dataclass(frozen=True)
class Failure:
    """Why something was not done.

    Args:
        reason: one line.
        is_lost: whether there was no answer, so that the next request would fail too; otherwise
            this request alone was refused.
        error: the exception, if there was one.
    """

    reason: str
    is_lost: bool = False
    error: Exception | None = None

    @property
    def error_code(self) -> str | None:
        """MLflow's code of the error (``RESOURCE_DOES_NOT_EXIST``); None for any other error."""
        return self.error.error_code if isinstance(self.error, MlflowException) else None

    def __str__(self) -> str:
        return self.reason


def attempt(action: Callable[[], object], timeout_s: float) -> Failure | None:
    """Run an action that may hang or raise; return why it failed, or None if it did not.

    Args:
        action: what to do; it may go on after the time is over.
        timeout_s: longest time to wait for it, seconds.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:  # of boto, requests or MLflow, depending on the store
            errors.append(error)

    # A daemon: neither this job nor its end waits for a request that hangs.
    thread = threading.Thread(target=run, name="mlflow-request", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return Failure(f"no answer in {timeout_s:g} s", is_lost=True)
    if not errors:
        return None
    error = errors[0]
    first_line = next(iter(str(error).splitlines()), "")
    is_lost = any(isinstance(each, _LOST) for each in _causes(error))
    return Failure(f"{type(error).__name__}: {first_line}", is_lost, error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    present: BaseException | None = error
    while present is not None:
        yield present
        present = present.__cause__ or present.__context__
