"""Read, write, list and copy files by URL, with atomic writes and retries.

A URL is a plain path, ``file://``, or the URL of an object store (`pipeline.storage.urls`), whose
credentials come from the standard environment variables of its cloud.

Local files are read and written without pyarrow, which an installation for inference alone has not.
"""

import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.extras import require_extra
from pipeline.storage.object_stores import object_store
from pipeline.storage.retries import DamagedRecordError, retry
from pipeline.storage.urls import join, local_path

if TYPE_CHECKING:
    import pyarrow.fs

_COPY_BYTES = 8 << 20
_PARTIAL_SUFFIX = ".partial"


def filesystem(url: str) -> "tuple[pyarrow.fs.FileSystem, str]":
    """Return the pyarrow file system of a URL and the path inside it.

    Raises:
        StorageError: the URL has an unsupported scheme.
        MissingPackagesError: pyarrow is not installed.
    """
    path = local_path(url)
    if path is not None:
        return _arrow_fs(url).LocalFileSystem(), str(path.absolute())
    return object_store(url).open_store(url)


def _arrow_fs(url: str) -> Any:
    """Return the module ``pyarrow.fs``, or raise MissingPackagesError."""
    try:
        # Optional: an installation for inference alone has no pyarrow.
        import pyarrow.fs as arrow_fs  # noqa: PLC0415
    except ImportError:
        require_extra("s3", f"access to {url}")
        raise
    return arrow_fs


def exists(url: str) -> bool:
    """Whether a file, or a folder with files in it, exists at the URL."""
    store, path = filesystem(url)
    info = retry(url, lambda: store.get_file_info(path))
    return bool(info.type != _arrow_fs(url).FileType.NotFound)


def is_file(url: str) -> bool:
    """Whether a file exists at the URL."""
    store, path = filesystem(url)
    return bool(retry(url, lambda: store.get_file_info(path)).is_file)


def read_bytes(url: str) -> bytes:
    """Return the content of a file.

    Raises:
        MissingFileError: no file exists at the URL.
        StorageError: the file cannot be read.
    """
    if (local := local_path(url)) is not None:
        return retry(url, local.read_bytes)
    store, path = filesystem(url)

    def read() -> bytes:
        with store.open_input_file(path) as stream:
            return bytes(stream.read())

    return retry(url, read)


def write_bytes(url: str, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a part of it."""
    local = local_path(url)

    def write() -> None:
        if local is not None:
            with _replacing(local) as partial:
                partial.write_bytes(data)
            return
        store, path = filesystem(url)
        # An object becomes visible only when its upload is complete.
        with store.open_output_stream(path) as stream:
            stream.write(data)

    retry(url, write)


def upload_file(source: Path, url: str) -> None:
    """Copy a local file to the URL atomically, without loading it into memory."""
    local = local_path(url)

    def upload() -> None:
        if local is not None:
            with _replacing(local) as partial:
                shutil.copyfile(source, partial)
            return
        store, path = filesystem(url)
        arrow_fs = _arrow_fs(url)
        arrow_fs.copy_files(
            str(source.absolute()),
            path,
            source_filesystem=arrow_fs.LocalFileSystem(),
            destination_filesystem=store,
            chunk_size=_COPY_BYTES,
            use_threads=False,
        )

    retry(url, upload)


def download_file(url: str, target: Path) -> None:
    """Copy a file to a local path atomically, without loading it into memory.

    Raises:
        MissingFileError: no file exists at the URL.
    """
    store, path = filesystem(url)

    def download() -> None:
        with (
            _replacing(target) as partial,
            store.open_input_stream(path) as source,
            partial.open("wb") as sink,
        ):
            while chunk := source.read(_COPY_BYTES):
                sink.write(chunk)

    retry(url, download)


def read_json(url: str) -> Any:
    """Return the JSON document at the URL.

    Raises:
        MissingFileError: no file exists at the URL.
        DamagedRecordError: the file is not JSON.
        StorageError: the file cannot be read.
    """
    data = read_bytes(url)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(
            f"{url}: not valid JSON ({error}); delete it, and it will be written again"
        ) from None


def write_json(url: str, document: Any) -> None:
    """Write a JSON document atomically."""
    write_bytes(url, json.dumps(document, indent=1).encode())


def list_files(url: str, suffixes: Sequence[str] = ()) -> list[str]:
    """Return the sorted URLs of all files below a folder, or the URL itself if it is a file.

    Args:
        url: folder or file; a missing one yields an empty list.
        suffixes: extensions to keep, case-insensitive (".jpg", ".png"); empty keeps all.
    """
    return sorted(file_sizes(url, suffixes))


def file_sizes(url: str, suffixes: Sequence[str] = ()) -> dict[str, int]:
    """Return the same files as `list_files`, each with its size in bytes."""
    store, root = filesystem(url)
    selector = _arrow_fs(url).FileSelector(root, recursive=True, allow_not_found=True)

    def list_infos() -> "list[pyarrow.fs.FileInfo]":
        root_info = store.get_file_info(root)
        return [root_info] if root_info.is_file else store.get_file_info(selector)

    endings = tuple(suffix.lower() for suffix in suffixes)
    sizes = {}
    for info in retry(url, list_infos):
        # Listings include folders, and the partial files of killed writers.
        if not info.is_file or info.path.endswith(_PARTIAL_SUFFIX):
            continue
        if endings and not info.path.lower().endswith(endings):
            continue
        below = info.path[len(root) :].strip("/")
        if not below:
            sizes[url] = int(info.size)
        else:
            sizes[join(url, quote(below) if url.startswith("file:") else below)] = int(info.size)
    return sizes


def delete(url: str) -> None:
    """Delete a file, or a folder with everything in it; do nothing if neither exists."""
    store, path = filesystem(url)

    def remove() -> None:
        info = store.get_file_info(path)
        if info.is_file:
            store.delete_file(path)
        elif info.type == _arrow_fs(url).FileType.Directory:
            # Google's file system deletes the files, then misses an object for the folder itself.
            with suppress(FileNotFoundError):
                store.delete_dir(path)

    retry(url, remove)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL_SUFFIX}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
