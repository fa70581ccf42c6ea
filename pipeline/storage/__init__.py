"""Files at a local path, `file://` or `s3://` URL: ``from pipeline import storage``."""

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
from pipeline.storage.retries import MissingFileError, StorageError
from pipeline.storage.urls import Location, absolute, is_relative, join, local_path

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
