"""Azure Blob Storage and Data Lake Storage.

pyarrow's file system, except for writing: it would first replace a file by an empty one, and fill
that when the upload is complete. Here a file appears, or is replaced, when its upload is complete.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import pyarrow as pa
from pyarrow.fs import AzureFileSystem, FileInfo, FileSelector, FileSystemHandler, PyFileSystem

from pipeline.storage.azure_account import Account, account_at, account_of, split_url
from pipeline.storage.azure_blobs import BlockWriter, connect, translated_errors
from pipeline.storage.object_stores import Page
from pipeline.storage.redaction import redacted_cause


def open_store(url: str) -> tuple[PyFileSystem, str]:
    """Return the file system of a URL, and the path in it."""
    _, container, key = split_url(url)
    return PyFileSystem(_AzureHandler(account_at(url))), f"{container}/{key}".rstrip("/")


def list_page(url: str, prefix: str, token: str | None, limit: int | None) -> Page:
    """List a page of blobs with their ETags; see `ObjectStore.list_page`."""
    _, container, _ = split_url(url)
    with translated_errors():
        listing = (
            connect(account_at(url))
            .get_container_client(container)
            .list_blobs(prefix, include=["metadata"], results_per_page=limit)
            .by_page(token)
        )
        blobs = list(next(listing, ()))
    objects = [(blob.name, blob.etag) for blob in blobs if not _is_folder(blob.metadata)]
    return Page(objects, listing.continuation_token or None)


def _is_folder(metadata: dict[str, str] | None) -> bool:
    """Whether a blob stands for a folder, as Data Lake Storage lists them."""
    return (metadata or {}).get("hdi_isfolder", "").lower() == "true"


@functools.lru_cache
def _native(account: Account) -> AzureFileSystem:
    scheme, _, authority = account.endpoint.partition("://")
    # An emulator has the account as a path, and the blobs of real ones a subdomain.
    host, _, in_path = authority.partition("/")
    blob = host if in_path else f".{host.partition('.')[2]}"
    return AzureFileSystem(
        account_name=account.name,
        account_key=account.key,
        # pyarrow appends it to addresses as it is, and portals show it with and without "?".
        sas_token=None if account.sas_token is None else "?" + account.sas_token.lstrip("?"),
        blob_storage_authority=blob,
        dfs_storage_authority=blob.replace(".blob.", ".dfs."),
        blob_storage_scheme=scheme,
        dfs_storage_scheme=scheme,
    )


class _AzureHandler(FileSystemHandler):  # type: ignore[misc]
    """An account as a file system; a process that it is sent to has its own credentials."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._native = _native(account)

    def __reduce__(self) -> tuple[Any, ...]:
        return _handler, (self._account.name, self._account.suffix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _AzureHandler) and self._account == other._account

    __hash__ = None  # type: ignore[assignment]

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        container, _, key = path.partition("/")
        with translated_errors():
            blob = connect(self._account).get_blob_client(container, key)
        return pa.PythonFile(BlockWriter(blob), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("files in Azure are written whole")

    def _ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except (OSError, pa.ArrowException) as error:  # names the signed address
            raise redacted_cause(error) from None

    def get_type_name(self) -> str:
        return "azure"

    def normalize_path(self, path: str) -> str:
        return str(self._ask(self._native.normalize_path, path))

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return list(self._ask(self._native.get_file_info, paths))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return list(self._ask(self._native.get_file_info, selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self._ask(self._native.create_dir, path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._ask(self._native.delete_dir, path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._ask(self._native.delete_dir_contents, path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("an account is not emptied")

    def delete_file(self, path: str) -> None:
        self._ask(self._native.delete_file, path)

    def move(self, src: str, dest: str) -> None:
        self._ask(self._native.move, src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._ask(self._native.copy_file, src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return cast(pa.NativeFile, self._ask(self._native.open_input_stream, path))

    def open_input_file(self, path: str) -> pa.NativeFile:
        return cast(pa.NativeFile, self._ask(self._native.open_input_file, path))


def _handler(name: str, suffix: str) -> _AzureHandler:
    return _AzureHandler(account_of(name, suffix))
