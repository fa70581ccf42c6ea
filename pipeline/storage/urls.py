"""Locations: a plain path, ``file://``, ``s3://`` or any other scheme (``models:/``)."""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import unquote, urlparse

from pydantic import AfterValidator, ValidationInfo

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/")


def is_relative(location: str) -> bool:
    """Whether the location is a path that depends on the current folder."""
    return not _has_scheme(location) and not Path(location).expanduser().is_absolute()


def local_path(location: str) -> Path | None:
    """Return the path of a plain or ``file://`` location; None for any other scheme."""
    if location.startswith("file:"):
        return Path(unquote(urlparse(location).path))
    return None if _has_scheme(location) else Path(location).expanduser()


def absolute(location: str, folder: Path | None = None) -> str:
    """Resolve a relative path and expand ``~``; leave other schemes alone.

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
    return _SCHEME.match(location) is not None


def _resolve(location: str, info: ValidationInfo) -> str:
    if not location.strip() or re.search(r"[\x00-\x1f\x7f]", location):
        raise ValueError("a location must not be empty or have control characters")
    folder = (info.context or {}).get("folder")
    return location if folder is None else absolute(location, folder)


Location = Annotated[str, AfterValidator(_resolve)]
"""A location in the configuration; `load_config` makes it absolute."""
