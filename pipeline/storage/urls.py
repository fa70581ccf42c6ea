"""Locations: a plain path, a ``file://`` URL, the URL of an object store, or a registered model.

Object stores are ``s3://bucket/path``, Google's ``gs://bucket/path``, and Azure's
``az://container/path`` or ``abfss://container@account.dfs.core.windows.net/path``.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import unquote, urlparse

from pydantic import AfterValidator, ValidationInfo

STORE_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
"""Schemes of object stores; see `pipeline.storage.object_stores`."""

MODEL_SCHEMES = ("models", "runs", "http", "https")
"""Further schemes of weights: MLflow's registry and runs, and addresses to download from."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/")


def is_relative(location: str) -> bool:
    """Whether the location is a path that depends on the current folder."""
    return not _has_scheme(location) and not _expand_home(location).is_absolute()


def scheme_of(location: str) -> str:
    """Return the scheme of a URL, such as ``s3``; empty for a plain path."""
    match = _SCHEME.match(location)
    return match[1] if match else ""


def is_in_store(location: str) -> bool:
    """Whether the location is the URL of an object store."""
    return scheme_of(location) in STORE_SCHEMES


def unsupported_scheme(location: str) -> str:
    """Return the message for a URL that no store serves."""
    stores = ", ".join(f"{scheme}://" for scheme in STORE_SCHEMES)
    return f"{location}: unsupported URL scheme; use a local path, file://, {stores}"


def local_path(location: str) -> Path | None:
    """Return the path of a plain or ``file://`` location; None for any other scheme."""
    if location.startswith("file:"):
        return Path(unquote(urlparse(location).path))
    return None if _has_scheme(location) else _expand_home(location)


def is_in_home(location: str) -> bool:
    """Whether a path begins with ``~/``; other names may begin with that character too."""
    return location == "~" or location.startswith("~/")


def _expand_home(location: str) -> Path:
    path = Path(location)
    return path.expanduser() if is_in_home(location) else path


def absolute(location: str, folder: Path | None = None) -> str:
    """Resolve a relative path and expand ``~/``; leave other schemes alone.

    ``file://`` becomes a plain path, so that a local file has one spelling. Every location that a
    task on a cluster reads must be absolute: its process runs in another folder.

    Args:
        location: a path or URL.
        folder: what a relative path is relative to; default: the current folder.
    """
    local = local_path(location)
    if local is None:
        return location
    # Path.resolve would also follow symbolic links; they stay as the user wrote them.
    parts: list[str] = []
    for part in ((folder or Path.cwd()) / local).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return str(PurePosixPath(*parts))


def join(location: str, *parts: str) -> str:
    """Append path parts to a location."""
    return "/".join([location.rstrip("/"), *(part.strip("/") for part in parts)])


def _has_scheme(location: str) -> bool:
    return bool(scheme_of(location))


def _resolve(location: str, info: ValidationInfo) -> str:
    if not location.strip() or re.search(r"[\x00-\x1f\x7f]", location):
        raise ValueError("a location must not be empty or have control characters")
    folder = (info.context or {}).get("folder")
    return location if folder is None else absolute(location, folder)


def _check_scheme(location: str) -> str:
    if scheme_of(location) not in ("", "file", *STORE_SCHEMES):
        raise ValueError(unsupported_scheme(location))
    return location


def _check_model_scheme(location: str) -> str:
    if scheme_of(location) not in MODEL_SCHEMES:
        try:
            _check_scheme(location)
        except ValueError as error:
            raise ValueError(f"{error}, models:/, runs:/, http:// or https://") from None
    return location


Location = Annotated[str, AfterValidator(_check_scheme), AfterValidator(_resolve)]
"""A location of files in the configuration; `load_config` makes it absolute."""

ModelLocation = Annotated[str, AfterValidator(_check_model_scheme), AfterValidator(_resolve)]
"""A location of weights in the configuration, which may also be in MLflow or on the web."""
