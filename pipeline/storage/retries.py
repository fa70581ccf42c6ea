"""Failures of a store: which may pass, which stay, and what to tell about them."""

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.urls import local_path

T = TypeVar("T")

_PAUSES_S = (0.25, 1.0, 4.0)
_LASTING = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "NO_SUCH_BUCKET", "INVALID_")


class StorageError(OSError):
    """A file could not be read or written; the text names the URL and what to do."""


class MissingFileError(StorageError, FileNotFoundError):
    """Nothing stands at the URL."""


def persist(url: str, action: Callable[[], T]) -> T:
    """The result of ``action``; failures that may pass are tried again, with growing pauses.

    Raises:
        MissingFileError: nothing stands at the URL.
        StorageError: any other failure that stays.
    """
    pauses_s = iter(_PAUSES_S)
    while True:
        try:
            return action()
        except FileNotFoundError as error:
            raise MissingFileError(f"{url}: nothing there; is the URL right?") from error
        except OSError as error:
            text = str(error).upper()
            lasting = local_path(url) is not None or any(word in text for word in _LASTING)
            pause_s = next(pauses_s, None)
            if lasting or pause_s is None:
                raise StorageError(f"{url}: {error}. {_advice(url)}") from error
            time.sleep(pause_s)


def _advice(url: str) -> str:
    if local_path(url) is not None:
        return "Check permissions and free space."
    return "Check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's name."
