"""Storage errors: their types, which to retry, and the advice in their messages."""

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.urls import local_path

T = TypeVar("T")

_PAUSES_S = (0.25, 1.0, 4.0)
_PERMANENT = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "NO_SUCH_BUCKET", "INVALID_")
"""Substrings of S3 errors that retrying cannot fix."""


class StorageError(OSError):
    """A file could not be read or written; the message names the URL and what to do."""


class MissingFileError(StorageError, FileNotFoundError):
    """No file or folder exists at the URL."""


class DamagedRecordError(StorageError):
    """A file does not hold the record that a job wrote; the message names it and the way out."""


def missing_file(url: str) -> MissingFileError:
    """Build the error for a URL at which nothing exists."""
    return MissingFileError(f"{url}: no such file or folder; check the URL")


def retry(url: str, action: Callable[[], T]) -> T:
    """Run ``action`` and return its result; retry transient S3 errors with growing pauses.

    Raises:
        MissingFileError: no file or folder exists at the URL.
        StorageError: any other permanent error, or a transient one after the last retry.
    """
    is_local = local_path(url) is not None
    pauses_s = iter(_PAUSES_S)
    while True:
        try:
            return action()
        except FileNotFoundError as error:
            raise missing_file(url) from error
        except OSError as error:
            message = str(error).upper()
            permanent = is_local or any(part in message for part in _PERMANENT)
            pause_s = next(pauses_s, None)
            if permanent or pause_s is None:
                advice = (
                    "Check permissions and free space."
                    if is_local
                    else "Check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the "
                    "bucket name."
                )
                raise StorageError(f"{url}: {error}. {advice}") from error
            time.sleep(pause_s)
