"""Files at a local path, ``file://`` URL, or the URL of an object store.

Use as ``from pipeline import storage`` and ``storage.read_json(url)``. Settings import
`pipeline.storage.urls` instead, because they need locations but no file system.
"""

from typing import TYPE_CHECKING

from model.lazy_exports import lazy_exports
from pipeline.storage.retries import DamagedRecordError, MissingFileError, StorageError
from pipeline.storage.untrusted_names import UnsafeNameError, check_name, path_below
from pipeline.storage.urls import absolute, join, local_path

if TYPE_CHECKING:
    from pipeline.storage.files import (
        delete,
        download_file,
        exists,
        file_sizes,
        filesystem,
        is_file,
        list_files,
        read_bytes,
        read_json,
        upload_file,
        write_bytes,
        write_json,
    )
    from pipeline.storage.folders import download_folder, fetch, move_folder, upload_folder

__all__ = [
    "DamagedRecordError",
    "MissingFileError",
    "StorageError",
    "UnsafeNameError",
    "absolute",
    "check_name",
    "delete",
    "download_file",
    "download_folder",
    "exists",
    "fetch",
    "file_sizes",
    "filesystem",
    "is_file",
    "join",
    "list_files",
    "local_path",
    "move_folder",
    "path_below",
    "read_bytes",
    "read_json",
    "upload_file",
    "upload_folder",
    "write_bytes",
    "write_json",
]

if not TYPE_CHECKING:
    # Importing pipeline.storage.urls runs this file too, and must not wait for pyarrow.
    _FOLDER_FUNCTIONS = ["download_folder", "fetch", "move_folder", "upload_folder"]
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "pipeline.storage.files": sorted({*__all__} - {*_FOLDER_FUNCTIONS}),
            "pipeline.storage.folders": _FOLDER_FUNCTIONS,
        },
    )
