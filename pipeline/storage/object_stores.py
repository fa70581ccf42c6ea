"""The object stores, by the scheme of a URL.

Bytes go through pyarrow's file systems, which Ray and Parquet use too. Versions come from each
cloud's own client, because pyarrow lists no ETags and generations.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from pipeline.extras import require_extra
from pipeline.storage.retries import StorageError
from pipeline.storage.urls import scheme_of, unsupported_scheme

if TYPE_CHECKING:
    import pyarrow.fs


class Page(NamedTuple):
    """A part of a listing.

    Args:
        objects: the key and the version of each object, in the order of the keys' bytes.
        token: continues the listing; None after its last page.
    """

    objects: list[tuple[str, str]]
    token: str | None


class ObjectStore(Protocol):
    """What the module of a store has."""

    @staticmethod
    def open_store(url: str) -> "tuple[pyarrow.fs.FileSystem, str]":
        """Return the file system of a URL, and ``bucket/key``, the path in it."""

    @staticmethod
    def list_page(url: str, prefix: str, token: str | None, limit: int | None) -> Page:
        """List objects of the URL's bucket whose keys begin with a prefix.

        Args:
            url: names the bucket.
            prefix: of the keys, as a string.
            token: of the page before; None for the first page.
            limit: largest number of objects on the page; None for the store's own.

        Raises:
            FileNotFoundError: there is no such bucket.
            RefusedError: the store refuses; OSError: a transient error.
        """


_STORES = {
    "s3": ("pipeline.storage.s3", "s3"),
    "gs": ("pipeline.storage.gcs", "gcs"),
    "az": ("pipeline.storage.azure", "azure"),
    "abfs": ("pipeline.storage.azure", "azure"),
    "abfss": ("pipeline.storage.azure", "azure"),
}
"""Scheme -> the module of the store, and the extra that has what it imports."""


def object_store(url: str) -> ObjectStore:
    """Return the store of a URL.

    Raises:
        StorageError: the URL has an unsupported scheme.
        MissingPackagesError: the store's extra is not installed.
    """
    if scheme_of(url) not in _STORES:
        raise StorageError(unsupported_scheme(url))
    module, extra = _STORES[scheme_of(url)]
    require_extra(extra, f"access to {url}")
    return cast(ObjectStore, importlib.import_module(module))
