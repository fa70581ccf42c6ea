"""Files at a local path, ``file://`` or ``s3://`` URL.

Use as ``from pipeline import storage`` and ``storage.read_json(url)``. Settings import
`pipeline.storage.urls` instead, because they need locations but no file system.
"""

from typing import TYPE_CHECKING

from model.lazy_exports import lazy_exports
from pipeline.storage.retries import MissingFileError, StorageError
from pipeline.storage.urls import join, local_path

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
    "MissingFileError",
    "StorageError",
    "delete",
    "download_folder",
    "exists",
    "fetch",
    "file_sizes",
    "filesystem",
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
    # Importing pipeline.storage.urls runs this file too, and must not wait for pyarrow.
    __getattr__, __dir__ = lazy_exports(__name__, {"pipeline.storage.files": __all__})
