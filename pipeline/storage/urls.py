"""What a location is: a plain path, ``file://``, ``s3://``, or another scheme (``models:/``)."""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import unquote, urlparse

from pydantic import AfterValidator, ValidationInfo

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/")


def has_scheme(location: str) -> bool:
    """Whether the location names its scheme (``s3://bucket/key``); a plain path does not."""
    return _SCHEME.match(location) is not None


def is_relative(location: str) -> bool:
    """Whether the location is a path that depends on the current folder."""
    return not has_scheme(location) and not Path(location).expanduser().is_absolute()


def local_path(location: str) -> Path | None:
    """The path that a plain or ``file://`` location names; None for any other scheme."""
    if location.startswith("file:"):
        return Path(unquote(urlparse(location).path))
    return None if has_scheme(location) else Path(location).expanduser()


def absolute(location: str, folder: Path) -> str:
    """The location, with a relative path taken from ``folder`` and ``~`` expanded.

    ``file://`` becomes a plain path: one place, one name.
    """
    local = local_path(location)
    if local is None:
        return location
    path = folder / local
    # Without "..", but links stay as the user wrote them.
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return str(PurePosixPath(*parts))


def join(location: str, *parts: str) -> str:
    """The location of ``parts`` below it."""
    return "/".join([location.rstrip("/"), *(part.strip("/") for part in parts)])


def _resolve(location: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    return location if folder is None else absolute(location, folder)


Location = Annotated[str, AfterValidator(_resolve)]
"""A setting that names a place; `load_config` makes it absolute."""
