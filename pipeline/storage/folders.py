"""Copy, fetch and move folders by URL."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.files import (
    delete,
    download_file,
    filesystem,
    is_file,
    list_files,
    upload_file,
)
from pipeline.storage.retries import missing_file, retry
from pipeline.storage.scratch import scratch_folder
from pipeline.storage.untrusted_names import check_name, path_below
from pipeline.storage.urls import join, local_path


def upload_folder(folder: Path, url: str) -> None:
    """Copy every file in a local folder to the same relative path below the URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            upload_file(path, join(url, path.relative_to(folder).as_posix()))


def download_folder(url: str, folder: Path) -> None:
    """Copy every file below the URL to the same relative path in a local folder.

    Raises:
        MissingFileError: the URL has no files below it.
    """
    files = list_files(url)
    if not files:
        raise missing_file(url)
    for file in files:
        download_file(file, path_below(folder, file[len(url) :].strip("/")))


@contextmanager
def fetch(url: str) -> Iterator[Path]:
    """Yield a local path to a file or folder, valid inside the ``with`` block.

    A local URL is yielded as its own path; anything else is downloaded to a temporary folder.

    Raises:
        MissingFileError: no file or folder exists at the URL.
    """
    local = local_path(url)
    if local is not None:
        if not local.exists():
            raise missing_file(url)
        yield local
        return
    with scratch_folder("fetched") as scratch:
        target = scratch / check_name(url.rstrip("/").rpartition("/")[2])
        if is_file(url):
            download_file(url, target)
        else:
            download_folder(url, target)
        yield target


def move_folder(url: str, target: str) -> None:
    """Rename a folder. In an object store its files are copied, then the folder is deleted.

    Raises:
        MissingFileError: the URL has no files below it.
    """
    files = list_files(url)
    if not files:
        raise missing_file(url)
    store, path = filesystem(url)
    _, target_path = filesystem(target)
    if local_path(url) is not None:
        retry(url, lambda: store.move(path, target_path))
        return
    for file in files:
        _, source = filesystem(file)
        below = source[len(path) :].strip("/")
        retry(file, functools.partial(store.copy_file, source, f"{target_path}/{below}"))
    delete(url)
