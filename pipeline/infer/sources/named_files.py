"""Images that an input names one by one: their URLs, their versions, and how they are read."""

import errno
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from pipeline import storage
from pipeline.infer.input_image import InputImage
from pipeline.infer.inputs import InputChunk, read_file
from pipeline.storage.retries import InvalidNameError, retry
from pipeline.storage.urls import is_in_home, local_path
from pipeline.storage.versions import file_url, list_versions

MISSING, NOT_A_FILE, NO_NAME = "missing", "not a file", "no name"
"""Versions of what is no file now. A file that comes later has another version."""

_UNUSABLE = {errno.ENAMETOOLONG: NO_NAME, errno.ELOOP: NOT_A_FILE}
"""Error number -> version of what only this name is to blame for, not the disk."""

_THREADS = 16  # they wait for the store
_BATCH = 1000


def resolve(name: str, folder_url: str) -> str:
    """Return the URL of a named file: the name itself if it is a URL or an absolute path.

    Args:
        name: a URL, an absolute path, or a path relative to ``folder_url``.
        folder_url: a folder, as a plain path or in a bucket.
    """
    if "://" in name or name.startswith("/") or is_in_home(name):
        return name
    scheme, separator, path = folder_url.rpartition("://")
    # Object keys have no "..".
    return scheme + separator + posixpath.normpath(posixpath.join(path, name))


def folder_of(url: str) -> str:
    """Return the folder that a file is in, which may be the root."""
    return url.rpartition("/")[0] or "/"


def read_named_files(chunk: InputChunk) -> Iterator[InputImage]:
    """Read images that are named as `resolve` takes it; an `ImageReader`."""
    return _read(chunk, [resolve(name, chunk.folder_url) for name in chunk.files])


def read_files_below(chunk: InputChunk) -> Iterator[InputImage]:
    """Read images that are named relative to a folder, each below it; an `ImageReader`."""
    return _read(chunk, [file_url(chunk.folder_url, name) for name in chunk.files])


def _read(chunk: InputChunk, urls: Sequence[str]) -> Iterator[InputImage]:
    for number, (url, version) in enumerate(zip(urls, chunk.versions, strict=True)):
        if version == NO_NAME:
            yield chunk.image(number, error=f"{chunk.files[number][:200]!r} names no file")
        elif version == NOT_A_FILE:
            yield chunk.image(number, error=f"{url} is not a file")
        else:
            yield read_file(chunk, number, url)


def file_versions(urls: Iterable[str | None]) -> Iterator[str]:
    """Yield the version of each file, `MISSING` or `NOT_A_FILE`, asking for many at once.

    Of None, or what cannot be the name of a file, the version is `NO_NAME`.

    Raises:
        StorageError: a store cannot be read, or a URL is of a kind that is not supported.
    """
    remaining = iter(urls)
    with ThreadPoolExecutor(_THREADS, "versions") as pool:
        while batch := list(islice(remaining, _BATCH)):
            yield from pool.map(lambda url: file_version(url) if url else NO_NAME, batch)


def file_version(url: str) -> str:
    """Return the version of a file, as `list_versions` gives it, or one of those that are none.

    Raises:
        StorageError: the store cannot be read.
    """
    path = local_path(url)
    if path is None:
        return _listed_version(url)
    try:
        status = retry(url, path.stat)
    except storage.MissingFileError:
        return MISSING
    except ValueError:  # a NUL
        return NO_NAME
    except storage.StorageError as error:
        number = getattr(error.__cause__, "errno", None)
        if number not in _UNUSABLE:
            raise
        return _UNUSABLE[number]
    if not path.is_file():  # a folder, a pipe
        return NOT_A_FILE
    return f"{status.st_size} {status.st_mtime_ns}"


def check_version(url: str, version: str) -> None:
    """Check that a file is still in the version that was planned.

    Raises:
        MissingFileError: it is gone.
        StorageError: it has changed, or the store cannot be read.
    """
    now = file_version(url)
    if now == MISSING:
        raise storage.MissingFileError(f"{url}: no such file")
    if now != version:
        raise storage.StorageError(f"{url} changed while the job was running; start the job again")


def _listed_version(url: str) -> str:
    try:
        first = next(list_versions(url), None)
    except storage.MissingFileError as error:  # no such bucket
        return NO_NAME if isinstance(error.__cause__, InvalidNameError) else MISSING
    if first is None:
        return MISSING
    return NOT_A_FILE if first.name else first.version
