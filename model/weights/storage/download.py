"""Weights from the web, kept in a cache: resumed where they broke off, and never half there."""

import fcntl
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urldefrag, urlsplit

from model.weights.report import WeightsError

CACHE_VARIABLE = "MASKRCNN_RAY_CACHE"
TIMEOUT_S = 30.0
_ATTEMPTS = 3
_CHUNK_BYTES = 1 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def local_path(source: str | Path) -> Path:
    """A path as it is, or the downloaded file of an ``https://`` address.

    An address may end in ``#sha256=`` and 64 hexadecimal digits, which the file must have. A file
    in the cache is not asked for again: with another content at the same address, only the digest
    tells. ``http://`` is accepted from this machine alone.

    The cache is the folder that the variable MASKRCNN_RAY_CACHE names, else ~/.cache/maskrcnn-ray.

    Raises:
        WeightsError: another scheme, no such file, no connection, or the wrong digest.
    """
    if isinstance(source, Path) or "://" not in source:
        return Path(source)
    address, fragment = urldefrag(source)
    parts = _checked(address)
    digest = _wanted_digest(fragment, parts)
    folder = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "maskrcnn-ray")
    name = re.sub(r"[^\w.-]", "_", Path(parts.path).name) or "weights"
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    download = _Download(address, _shown(parts), folder / f"{key}-{name}", digest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / f"{key}.lock"):
            return download.cached() or download.run()
    except urllib.error.HTTPError as error:
        raise WeightsError(
            f"{_shown(parts)}: the server says {error.code} {error.reason}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{_shown(parts)} cannot be fetched: {reason}") from error


@dataclass(frozen=True)
class _Download:
    address: str
    shown: str
    target: Path
    digest: str | None

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")

    @property
    def mark(self) -> Path:
        """What tells the partial file's version from others at the same address."""
        return self.target.with_name(self.target.name + ".partial.json")

    def cached(self) -> Path | None:
        if not self.target.is_file():
            return None
        if self.digest is not None and _digest(self.target) != self.digest:
            self.target.unlink()
            return None
        return self.target

    def run(self) -> Path:
        for _ in range(_ATTEMPTS):
            if self._fetch():
                break
        else:
            raise WeightsError(
                f"{self.shown} broke off {_ATTEMPTS} times, lastly after {_size(self.partial)} "
                "bytes; they are kept, and the next attempt continues there"
            )
        found = _digest(self.partial)
        if self.digest is not None and found != self.digest:
            self._forget()
            raise WeightsError(
                f"{self.shown} has the SHA-256 {found}, not {self.digest}: another version, or "
                "tampered with; nothing is kept of it"
            )
        self.partial.replace(self.target)
        self.mark.unlink(missing_ok=True)
        return self.target

    def _fetch(self) -> bool:
        """One request; whether the file is complete after it."""
        have, version = _size(self.partial), self._version()
        headers = {"Accept-Encoding": "identity", "User-Agent": "maskrcnn-ray"}
        if have and version:
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        request = urllib.request.Request(self.address, headers=headers)
        try:
            response = _OPENER.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            # Nothing lies beyond what we have: it was another version. From the start, then.
            self._forget()
            return False
        with response:
            start, whole = _extent(response.status, response.headers)
            if start not in (0, have):
                self._forget()
                return False
            self._remember(response.headers)
            with self.partial.open("ab" if start else "wb") as file:
                ended = _copy(response, file)
        return ended if whole is None else _size(self.partial) == whole

    def _version(self) -> str | None:
        try:
            return str(json.loads(self.mark.read_text())["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, headers: Message) -> None:
        tag = headers.get("ETag", "")
        version = headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
        if version:
            self.mark.write_text(json.dumps({"version": version}))
        else:
            self.mark.unlink(missing_ok=True)

    def _forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if _checked(newurl).scheme != "https" and req.type == "https":
            raise WeightsError(f"{_shown(urlsplit(req.full_url))} leads to http://; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_CheckedRedirects)


def _checked(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise WeightsError(f"{address!r} is no address: {error}") from error
    if parts.scheme == "https" and parts.hostname:
        return parts
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return parts
    if parts.scheme == "http":
        raise WeightsError(f"{_shown(parts)}: http:// can be tampered with; use https://")
    raise WeightsError(
        f"{_shown(parts)}: weights are read from paths and https:// only; other stores are the "
        "workflows' business"
    )


def _shown(parts: SplitResult) -> str:
    """The address without what may be secret: user, password, signature."""
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{parts.path}"


def _wanted_digest(fragment: str, parts: SplitResult) -> str | None:
    if not fragment:
        return None
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise WeightsError(
            f"{_shown(parts)}#{fragment}: after # only sha256= and 64 hexadecimal digits"
        )
    return match[1].lower()


def _extent(status: int, headers: Message) -> tuple[int, int | None]:
    """First byte of the answer, and length of the whole file where the server tells."""
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _copy(response: IO[bytes], file: IO[bytes]) -> bool:
    """Write what arrives; whether it ended, to all appearances, and did not break off."""
    try:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
    except (ConnectionError, TimeoutError, http.client.IncompleteRead):
        return False
    finally:
        file.flush()
        os.fsync(file.fileno())
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Several workers of a machine want the same file: one fetches it, the others wait."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
