"""Versions of files: text that changes when a file is written again, without reading it."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pipeline.storage.object_stores import ObjectStore, object_store
from pipeline.storage.retries import retry
from pipeline.storage.urls import join, local_path


class FileVersion(NamedTuple):
    """A file and its version.

    Args:
        name: relative to the listed folder; empty if the listed URL is the file itself.
        version: the ETag of an object in S3 or Azure, its generation at Google; of a local file,
            the size and the time of the last change.
    """

    name: str
    version: str


def file_versions(url: str) -> dict[str, str]:
    """Return the version of every file below a folder, or of a single file, by URL.

    A copy of a file may have another version; a file with other content does not have the same
    one.

    Args:
        url: folder or file; a missing one yields an empty dictionary.

    Raises:
        StorageError: the store cannot be read.
    """
    return {file_url(url, file.name): file.version for file in list_versions(url)}


def list_versions(url: str) -> Iterator[FileVersion]:
    """Yield the same files one by one, without holding them all.

    Local files come in the order of their names, as strings; objects in the order of the store.

    Raises:
        MissingFileError: there is no such bucket.
        StorageError: the store cannot be read.
    """
    path = local_path(url)
    if path is None:
        return _list_objects(url)
    path = path.absolute()
    if path.is_file():
        return iter([FileVersion("", _stat_version(path) or "")])
    return _walk(path, "", frozenset()) if path.is_dir() else iter(())


def file_url(folder_url: str, name: str) -> str:
    """Return the URL of a listed file; the names of ``file://`` URLs are percent-encoded."""
    if not name:
        return folder_url
    return join(folder_url, quote(name) if folder_url.startswith("file:") else name)


def _walk(folder: Path, below: str, ancestors: frozenset[Path]) -> Iterator[FileVersion]:
    real = folder.resolve()
    if real in ancestors:
        return  # a symbolic link to a folder that contains it
    # A folder sorts as its name and "/", so that the whole walk is in the order of the names.
    for name in retry(str(folder), lambda: sorted(_entries(folder))):
        if name.endswith("/"):
            yield from _walk(folder / name, below + name, ancestors | {real})
        elif version := _stat_version(folder / name):
            yield FileVersion(below + name, version)


def _entries(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield f"{entry.name}/" if entry.is_dir() else entry.name


def _stat_version(path: Path) -> str | None:
    """Return the version of a local file; None for a broken link, or a file just deleted."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def _object_version(store: ObjectStore, url: str, key: str) -> str | None:
    """Return the version of an object; None if there is none with exactly this key."""
    page = retry(url, lambda: store.list_page(url, key, None, 1))
    # Stores may answer with an empty page and the token of the next one.
    while not page.objects and (token := page.token) is not None:
        page = retry(url, functools.partial(store.list_page, url, key, token, None))
    return next((version for each, version in page.objects[:1] if each == key), None)


def _list_objects(url: str) -> Iterator[FileVersion]:
    store = object_store(url)
    _, path = store.open_store(url)
    prefix = path.partition("/")[2]
    if prefix:
        # Keys are in the order of their bytes: the object itself comes first.
        if (version := _object_version(store, url, prefix)) is not None:
            yield FileVersion("", version)
            return
        # With the slash: a longer name that begins alike is not below the folder.
        prefix += "/"
    token: str | None = None
    while True:
        page = retry(url, functools.partial(store.list_page, url, prefix, token, None))
        for key, version in page.objects:
            name = key.removeprefix(prefix)
            # Keys that end with a slash mark folders.
            if name and not name.endswith("/"):
                yield FileVersion(name, version)
        if (token := page.token) is None:
            return
