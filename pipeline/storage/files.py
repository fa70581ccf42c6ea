"""Files behind a URL: a plain path, ``file://`` or ``s3://``, with atomic writes and retries.

S3's endpoint, region and keys come from the standard environment variables (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ...).
"""

import functools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.fs

from pipeline.storage.retries import MissingFileError, StorageError, persist
from pipeline.storage.urls import join, local_path

__all__ = [
    "MissingFileError",
    "StorageError",
    "delete",
    "download_folder",
    "exists",
    "fetch",
    "filesystem",
    "join",
    "list_files",
    "file_sizes",
    "upload_file",
    "read_bytes",
    "read_json",
    "upload_folder",
    "write_bytes",
    "write_json",
]

_COPY_BYTES = 8 << 20
_PARTIAL = ".partial"


def filesystem(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The pyarrow file system of a URL and the path inside it.

    Raises:
        StorageError: the scheme is not known.
    """
    path = local_path(url)
    if path is not None:
        return pyarrow.fs.LocalFileSystem(), str(path.absolute())
    if url.startswith("s3://"):
        environment = os.environ.get
        endpoint = environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
        region = environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
        return _s3(endpoint, region, environment("AWS_ACCESS_KEY_ID")), url.removeprefix(
            "s3://"
        ).rstrip("/")
    raise StorageError(f"{url}: unknown kind of location; use a path, file:// or s3://")


@functools.lru_cache
def _s3(endpoint: str | None, region: str | None, key_id: str | None) -> pyarrow.fs.FileSystem:
    # key_id only keeps clients of different users apart; pyarrow reads the environment itself.
    del key_id
    return pyarrow.fs.S3FileSystem(
        endpoint_override=endpoint,
        # A server of one's own has no regions but wants the name in the signature.
        region=region or ("us-east-1" if endpoint else None),
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=5),
        connect_timeout=10,
        request_timeout=60,
    )


def exists(url: str) -> bool:
    """Whether a file or a folder with files stands at the URL."""
    store, path = filesystem(url)
    info = persist(url, lambda: store.get_file_info(path))
    return bool(info.type != pyarrow.fs.FileType.NotFound)


def read_bytes(url: str) -> bytes:
    """The whole file.

    Raises:
        MissingFileError: nothing stands there.
        StorageError: it cannot be read.
    """
    store, path = filesystem(url)

    def read() -> bytes:
        with store.open_input_file(path) as stream:
            return bytes(stream.read())

    return persist(url, read)


def write_bytes(url: str, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    store, path = filesystem(url)
    local = local_path(url)

    def write() -> None:
        if local is not None:
            with _replacing(local) as partial:
                partial.write_bytes(data)
            return
        # An S3 object appears when its upload is complete.
        with store.open_output_stream(path) as stream:
            stream.write(data)

    persist(url, write)


def upload_file(source: Path, url: str) -> None:
    """Copy a local file to the URL, atomically and without holding it in memory."""
    store, path = filesystem(url)
    local = local_path(url)

    def put() -> None:
        if local is not None:
            with _replacing(local) as partial:
                shutil.copyfile(source, partial)
            return
        pyarrow.fs.copy_files(
            str(source.absolute()),
            path,
            source_filesystem=pyarrow.fs.LocalFileSystem(),
            destination_filesystem=store,
            chunk_size=_COPY_BYTES,
            use_threads=False,
        )

    persist(url, put)


def read_json(url: str) -> Any:
    """The JSON document at the URL.

    Raises:
        StorageError: it is missing or not JSON.
    """
    data = read_bytes(url)
    try:
        return json.loads(data)
    except ValueError as error:
        raise StorageError(
            f"{url}: not valid JSON ({error}); delete it to have it rebuilt"
        ) from None


def write_json(url: str, document: Any) -> None:
    """Write a JSON document, atomically."""
    write_bytes(url, json.dumps(document, indent=1).encode())


def list_files(url: str, suffixes: Sequence[str] = ()) -> list[str]:
    """URLs of all files below a folder, sorted; the file itself if the URL is one.

    Args:
        url: folder or file; a missing one has no files.
        suffixes: keep names that end so, in any case (".jpg", ".png"); empty keeps all.
    """
    return sorted(file_sizes(url, suffixes))


def file_sizes(url: str, suffixes: Sequence[str] = ()) -> dict[str, int]:
    """`list_files` with each file's size, bytes."""
    store, root = filesystem(url)
    selector = pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True)

    def find() -> list[pyarrow.fs.FileInfo]:
        at_url = store.get_file_info(root)
        return [at_url] if at_url.is_file else store.get_file_info(selector)

    endings = tuple(suffix.lower() for suffix in suffixes)
    sizes = {}
    for info in persist(url, find):
        # Stores list folders too; partial files are what a killed writer left.
        if not info.is_file or info.path.endswith(_PARTIAL):
            continue
        if endings and not info.path.lower().endswith(endings):
            continue
        below = info.path[len(root) :].strip("/")
        if not below:
            sizes[url] = int(info.size)
        else:
            sizes[join(url, quote(below) if url.startswith("file:") else below)] = int(info.size)
    return sizes


def upload_folder(folder: Path, url: str) -> None:
    """Copy every file of a local folder below the URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            upload_file(path, join(url, path.relative_to(folder).as_posix()))


def download_folder(url: str, folder: Path) -> None:
    """Copy every file below the URL into a local folder.

    Raises:
        MissingFileError: no file stands there.
    """
    files = list_files(url)
    if not files:
        raise MissingFileError(f"{url}: no files there; is the URL right?")
    for file in files:
        target = folder / file[len(url) :].strip("/")
        with _replacing(target) as partial:
            _download(file, partial)


@contextmanager
def fetch(url: str) -> Iterator[Path]:
    """A local path with the content of a file or folder, valid inside the ``with``.

    A local URL is given as it is; anything else is copied to a temporary folder.

    Raises:
        MissingFileError: nothing stands there.
    """
    local = local_path(url)
    if local is not None:
        if not local.exists():
            raise MissingFileError(f"{url}: no such file or folder; is the path right?")
        yield local
        return
    store, path = filesystem(url)
    with tempfile.TemporaryDirectory(prefix="fetched-") as scratch:
        target = Path(scratch) / (path.rpartition("/")[2] or "content")
        if persist(url, lambda: store.get_file_info(path)).is_file:
            _download(url, target)
        else:
            download_folder(url, target)
        yield target


def delete(url: str) -> None:
    """Remove a file, or a folder with everything in it; nothing there is fine."""
    store, path = filesystem(url)

    def remove() -> None:
        info = store.get_file_info(path)
        if info.is_file:
            store.delete_file(path)
        elif info.type == pyarrow.fs.FileType.Directory:
            store.delete_dir(path)

    persist(url, remove)


def _download(url: str, target: Path) -> None:
    store, path = filesystem(url)

    def copy() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open_input_stream(path) as source, target.open("wb") as sink:
            while chunk := source.read(_COPY_BYTES):
                sink.write(chunk)

    persist(url, copy)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to, moved onto ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
