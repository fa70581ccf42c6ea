"""Versions of files: text that changes when a file is written again, without reading it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pipeline.storage.files import filesystem
from pipeline.storage.retries import retry
from pipeline.storage.urls import join, local_path


class FileVersion(NamedTuple):
    """A file and its version.

    Args:
        name: relative to the listed folder; empty if the listed URL is the file itself.
        version: the ETag of an object in S3, else the size and the time of the last change.
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


def _list_objects(url: str) -> Iterator[FileVersion]:
    _, path = filesystem(url)
    # After `filesystem`, which says so if the extra s3 is not installed.
    import boto3  # noqa: PLC0415

    bucket, _, prefix = path.partition("/")
    client = boto3.client("s3")
    if prefix:
        # Keys are in the order of their bytes: the object itself comes first.
        first = _page(client, url, Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", ())
        if first and first[0]["Key"] == prefix:
            yield FileVersion("", first[0]["ETag"])
            return
        # With the slash: a longer name that begins alike is not below the folder.
        prefix += "/"
    token: dict[str, str] = {}
    while True:
        page = _page(client, url, Bucket=bucket, Prefix=prefix, **token)
        for entry in page.get("Contents", ()):
            name = entry["Key"].removeprefix(prefix)
            # Keys that end with a slash mark folders.
            if name and not name.endswith("/"):
                yield FileVersion(name, entry["ETag"])
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _page(client: Any, url: str, **request: Any) -> dict[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 comes with boto3

    def request_page() -> dict[str, Any]:
        try:
            page: dict[str, Any] = client.list_objects_v2(**request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise FileNotFoundError(str(error)) from error
            # In the spelling that `retry` knows as permanent.
            text = f"{error} (ACCESS_DENIED)" if code == "AccessDenied" else str(error)
            raise OSError(text) from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error
        return page

    return retry(url, request_page)
