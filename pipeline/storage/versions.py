"""Versions of files: text that changes when a file is written again, without reading it."""

from urllib.parse import quote

import boto3
import pyarrow.fs
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.files import filesystem
from pipeline.storage.retries import retry
from pipeline.storage.urls import join, local_path


def file_versions(url: str) -> dict[str, str]:
    """Return the version of every file below a folder, or of a single file, by URL.

    It is the ETag of an object in S3, else the size and the time of the last change. A copy of a
    file may have another version; a file with other content does not have the same one.

    Args:
        url: folder or file; a missing one yields an empty dictionary.

    Raises:
        StorageError: the store cannot be read.
    """
    if local_path(url) is None:
        return retry(url, lambda: _object_versions(url))
    store, root = filesystem(url)
    selector = pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True)
    info = retry(url, lambda: store.get_file_info(root))
    infos = [info] if info.is_file else retry(url, lambda: store.get_file_info(selector))
    return {
        _url_of(url, info.path[len(root) :]): f"{info.size} {info.mtime_ns}"
        for info in infos
        if info.is_file
    }


def _url_of(url: str, below: str) -> str:
    """Return the URL of a file below a folder, spelled as `file_sizes` does."""
    path = below.strip("/")
    if not path:
        return url
    return join(url, quote(path) if url.startswith("file:") else path)


def _object_versions(url: str) -> dict[str, str]:
    _, path = filesystem(url)
    bucket, _, prefix = path.partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    versions = {}
    try:
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                below = entry["Key"].removeprefix(prefix)
                # A longer name that begins alike is not below the folder.
                if (below.startswith("/") or not below or not prefix) and not below.endswith("/"):
                    versions[_url_of(url, below)] = entry["ETag"]
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error
    return versions
