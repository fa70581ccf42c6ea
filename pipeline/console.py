"""The log lines of a job: the lines of our packages from INFO on, of others from WARNING on."""

import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from rich.console import Console

PACKAGES = ("ops_cuda", "model", "pipeline", "workflows")

# MLflow sets up its own logger when it is imported; at INFO it reports every table it creates.
QUIET = {"MLFLOW_LOGGING_LEVEL": "WARNING"}


@functools.cache
def terminal() -> Console:
    """Return the console that log lines and progress bars share, so that they do not mix."""
    return Console(stderr=True)


@contextlib.contextmanager
def show_logs() -> Iterator[None]:
    """Print log lines to stderr inside a ``with`` block of the process that runs a job."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _handled_by(_TerminalHandler(), "%H:%M:%S "), warnings.catch_warnings():
        # Advice of Ray and MLflow to their callers, about changes in releases to come.
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextlib.contextmanager
def show_worker_logs() -> Iterator[None]:
    """Print log lines to stdout inside a ``with`` block of a Ray task; Ray shows them the driver.

    The terminal has the time and the name of the task already.
    """
    with _handled_by(logging.StreamHandler(sys.stdout), ""):
        yield


def are_logs_shown() -> bool:
    """Return whether this process is inside `show_logs`."""
    handlers = logging.getLogger(PACKAGES[0]).handlers
    return any(isinstance(handler, _TerminalHandler) for handler in handlers)


@contextlib.contextmanager
def _handled_by(handler: logging.Handler, time_format: str) -> Iterator[None]:
    handler.setFormatter(_LineFormatter(datefmt=time_format))
    loggers = [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)


class _TerminalHandler(logging.Handler):
    """Prints above a progress bar, if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Plain text: no markup, colors or line breaks.
            terminal().print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    """Time, level unless it is INFO, and message."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        time = self.formatTime(record, self.datefmt) if self.datefmt else ""
        return f"{time}{level}{record.getMessage()}" + (
            f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        )
