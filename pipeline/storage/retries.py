"""Storage errors: their types, which to retry, and the advice in their messages."""

import re
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.redaction import redact, redacted_cause
from pipeline.storage.urls import is_in_store, local_path, scheme_of

T = TypeVar("T")

_PAUSES_S = (0.25, 1.0, 4.0)

_PERMANENT = re.compile(
    # S3, by pyarrow
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|NO_SUCH_BUCKET|INVALID_"
    # Google, by pyarrow: its client says so itself, but goes on without credentials.
    r"|PERMANENT.ERROR|ACCESS TOKEN TO AUTHENTICATE"
    # Azure, by pyarrow: client errors except timeouts and throttling
    r"|AZURE ERROR: \[\w*\] 4(?!08|29)\d\d"
)
"""Errors that retrying cannot fix, as parts of their text in upper case."""

_AZURE_ADVICE = (
    "Check AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY or AZURE_STORAGE_CONNECTION_STRING, and the "
    "name of the container."
)
_ADVICE = {
    "": "Check permissions and free space.",
    "s3": "Check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket name.",
    "gs": "Check GOOGLE_APPLICATION_CREDENTIALS (or run gcloud auth application-default login) and "
    "the bucket name.",
    "az": _AZURE_ADVICE,
    "abfs": _AZURE_ADVICE,
    "abfss": _AZURE_ADVICE,
}
"""Scheme -> what to check when a store refuses."""


class StorageError(OSError):
    """A file could not be read or written; the message names the URL and what to do."""


class MissingFileError(StorageError, FileNotFoundError):
    """No file or folder exists at the URL."""


class DamagedRecordError(StorageError):
    """A file does not hold the record that a job wrote; the message names it and the way out."""


class RefusedError(OSError):
    """A store refuses a request, and would again; raised to `retry` by the clients of stores."""


class InvalidNameError(FileNotFoundError):
    """No bucket can have such a name; raised to `retry` by the clients of stores."""


def status_error(status: int, message: str) -> OSError:
    """Build the error for the HTTP status of an answer: `RefusedError` or a transient one."""
    is_refused = 400 <= status < 500 and status not in (408, 429)
    return RefusedError(message) if is_refused else OSError(message)


def missing_file(url: str) -> MissingFileError:
    """Build the error for a URL at which nothing exists."""
    what = "file or folder, or no bucket of that name" if is_in_store(url) else "file or folder"
    return MissingFileError(f"{url}: no such {what}; check the URL")


def retry(url: str, action: Callable[[], T]) -> T:
    """Run ``action`` and return its result; retry transient errors of stores with growing pauses.

    Messages and causes have no signatures and keys, which clients copy from signed addresses.

    Raises:
        MissingFileError: no file or folder exists at the URL, or no bucket of that name.
        StorageError: any other permanent error, or a transient one after the last retry.
    """
    is_local = local_path(url) is not None
    pauses_s = iter(() if is_local else _PAUSES_S)
    while True:
        try:
            return action()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise missing_file(url) from redacted_cause(error)
        except _expected_errors(is_local) as error:
            pause_s = next(pauses_s, None)
            if pause_s is None or _is_permanent(error):
                advice = _ADVICE["" if is_local else scheme_of(url)]
                cause = redacted_cause(error)
                raise StorageError(f"{url}: {redact(str(error))}. {advice}") from cause
            time.sleep(pause_s)


def _expected_errors(is_local: bool) -> tuple[type[Exception], ...]:
    if is_local:
        return (OSError,)
    # An installation for inference alone has no pyarrow, and no files in stores.
    import pyarrow  # noqa: PLC0415

    return OSError, pyarrow.ArrowException


def _is_permanent(error: Exception) -> bool:
    # pyarrow raises OSError for what a network does, and others for, say, damaged credentials.
    if not isinstance(error, OSError) or isinstance(error, RefusedError):
        return True
    return _PERMANENT.search(str(error).upper()) is not None
