"""Google Cloud Storage.

Credentials are Google's default ones: the file that ``GOOGLE_APPLICATION_CREDENTIALS`` names, those
of ``gcloud auth application-default login``, or the machine's. ``STORAGE_EMULATOR_HOST`` names
another server, which is used without credentials.
"""

import datetime
import functools
import os
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs

from pipeline.storage.object_stores import Page
from pipeline.storage.retries import RefusedError, status_error

_SCHEME = "gs://"
# pyarrow's own is 15 minutes, also for a wrong address.
_RETRY_S = 15


def open_store(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a URL, and the path in it."""
    return _connect(os.environ.get("STORAGE_EMULATOR_HOST")), url.removeprefix(_SCHEME).rstrip("/")


@functools.lru_cache
def _connect(emulator: str | None) -> pyarrow.fs.FileSystem:
    retry_time_limit = datetime.timedelta(seconds=_RETRY_S)
    if not emulator:
        return pyarrow.fs.GcsFileSystem(retry_time_limit=retry_time_limit)
    address = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
    return pyarrow.fs.GcsFileSystem(
        anonymous=True,
        scheme=address.scheme,
        endpoint_override=address.netloc,
        retry_time_limit=retry_time_limit,
    )


def list_page(url: str, prefix: str, token: str | None, limit: int | None) -> Page:
    """List a page of objects with their generations; see `ObjectStore.list_page`."""
    # They take a second to import, and reading and writing need none of it.
    from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: PLC0415

    bucket = url.removeprefix(_SCHEME).partition("/")[0]
    try:
        listing = _client(os.environ.get("STORAGE_EMULATOR_HOST")).list_blobs(
            bucket,
            prefix=prefix,
            page_token=token,
            page_size=limit,
            fields="items(name,generation),nextPageToken",
            retry=None,  # its own takes two minutes; ours follows
        )
        page = next(listing.pages, ())
        return Page([(blob.name, str(blob.generation)) for blob in page], listing.next_page_token)
    except NotFound as error:
        raise FileNotFoundError(str(error)) from error
    except GoogleAPICallError as error:
        raise status_error(error.code or 500, str(error)) from error
    except (RetryError, TransportError, ConnectionError) as error:
        raise OSError(str(error)) from error
    except GoogleAuthError as error:
        raise RefusedError(str(error)) from error


@functools.lru_cache
def _client(_emulator: str | None) -> Any:
    from google.cloud import storage  # noqa: PLC0415 as above

    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))
