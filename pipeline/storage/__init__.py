"""Files at a local path, `file://` or `s3://` URL: ``from pipeline import storage``."""

from typing import TYPE_CHECKING

from model.lazy_exports import lazy_exports
from pipeline.storage.retries import MissingFileError, StorageError
from pipeline.storage.urls import Location, absolute, is_relative, join, local_path

if TYPE_CHECKING:
    from pipeline.storage.files import (
        delete,
        download_folder,
        exists,
        fetch,
        file_sizes,
        filesystem,
        list_files,
        read_bytes,
        read_json,
        upload_file,
        upload_folder,
        write_bytes,
        write_json,
    )

__all__ = [
    "Location",
    "MissingFileError",
    "StorageError",
    "absolute",
    "delete",
    "download_folder",
    "exists",
    "fetch",
    "file_sizes",
    "filesystem",
    "is_relative",
    "join",
    "list_files",
    "local_path",
    "read_bytes",
    "read_json",
    "upload_file",
    "upload_folder",
    "write_bytes",
    "write_json",
]

if not TYPE_CHECKING:
    # Settings import this package for its URLs and must not wait for pyarrow, which files.py needs.
    __getattr__, __dir__ = lazy_exports(__name__, {"pipeline.storage.files": __all__})
