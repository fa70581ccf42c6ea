"""Weights from the web, in a cache of complete files; interrupted downloads are resumed."""

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
from model.weights.storage.digest import Digest

CACHE_VARIABLE = "MASKRCNN_RAY_CACHE"
TIMEOUT_S = 30.0
_ATTEMPTS = 3
_CHUNK_BYTES = 1 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def fetch_weights(source: str | Path) -> Path:
    """Return a path unchanged, or download an ``https://`` address and return the file's path.

    An address may end in ``#sha256=`` and the 64 hexadecimal digits of the file's digest. A cached
    file is not requested again: only a digest reveals that the content of an address has changed.
    ``http://`` is accepted from this machine only.

    The cache is the folder named by the environment variable MASKRCNN_RAY_CACHE, by default
    ~/.cache/maskrcnn-ray.

    Raises:
        WeightsError: another scheme, no such file, no connection, or the wrong digest.
    """
    if isinstance(source, Path) or "://" not in source:
        return Path(source)
    address, fragment = urldefrag(source)
    return download_file(address, _expected_digest(fragment, _parse_allowed(address)))


def cache_folder() -> Path:
    """Return the folder of downloaded files."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "maskrcnn-ray")


def find_cached(address: str, digest: Digest | None) -> Path | None:
    """Return the file of an address if it has been downloaded, without a request.

    Args:
        address: as for `fetch_weights`, without a digest.
        digest: a cached file with another one is deleted; None accepts any.
    """
    return _Download.of(address, digest).cached()


def download_file(address: str, digest: Digest | None) -> Path:
    """Return the file of an address, which is downloaded unless it is in the cache.

    Args:
        address: as for `fetch_weights`, without a digest.
        digest: the file must have it; None accepts any.

    Raises:
        WeightsError: as for `fetch_weights`.
    """
    download = _Download.of(address, digest)
    try:
        download.target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(download.target.parent / f"{_key(address)}.lock"):
            return download.cached() or download.run()
    except urllib.error.HTTPError as error:
        raise WeightsError(
            f"{download.shown}: the server responded {error.code} {error.reason}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"cannot download {download.shown}: {reason}") from error


def _key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Download:
    address: str
    shown: str
    target: Path
    digest: Digest | None

    @classmethod
    def of(cls, address: str, digest: Digest | None) -> "_Download":
        parts = _parse_allowed(address)
        name = re.sub(r"[^\w.-]", "_", Path(parts.path).name) or "weights"
        target = cache_folder() / f"{_key(address)}-{name}"
        return cls(address, _redact(parts), target, digest)

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")

    @property
    def version_file(self) -> Path:
        """File with the version of the partial file, which the server may replace by another."""
        return self.target.with_name(self.target.name + ".partial.json")

    def cached(self) -> Path | None:
        """Return the file in the cache, if it is there and undamaged."""
        if not self.target.is_file():
            return None
        if self.digest is not None and not self.digest.matches(self.target):
            self.target.unlink()
            return None
        return self.target

    def run(self) -> Path:
        """Download the file, continuing a partial one, and move it into the cache."""
        for _ in range(_ATTEMPTS):
            if self._fetch():
                break
        else:
            raise WeightsError(
                f"the download of {self.shown} was interrupted {_ATTEMPTS} times, the last time "
                f"after {_size(self.partial)} bytes. They are kept: run again to continue there"
            )
        if self.digest is not None and not self.digest.matches(self.partial):
            found = self.digest.of(self.partial)
            self._discard()
            raise WeightsError(
                f"{self.shown} must have the {self.digest}; got {found}. It is another "
                "version or was tampered with; the download has been deleted"
            )
        self.partial.replace(self.target)
        self.version_file.unlink(missing_ok=True)
        return self.target

    def _fetch(self) -> bool:
        """Make one request, and return whether the file is complete after it."""
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
            # Range not satisfiable: the file is shorter now, so it is another version. Start over.
            self._discard()
            return False
        with response:
            start, whole = _extent(response.status, response.headers)
            if start not in (0, have):
                self._discard()
                return False
            self._save_version(response.headers)
            with self.partial.open("ab" if start else "wb") as file:
                ended = _copy(response, file)
        return ended if whole is None else _size(self.partial) == whole

    def _version(self) -> str | None:
        try:
            return str(json.loads(self.version_file.read_text())["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _save_version(self, headers: Message) -> None:
        tag = headers.get("ETag", "")
        version = headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
        if version:
            self.version_file.write_text(json.dumps({"version": version}))
        else:
            self.version_file.unlink(missing_ok=True)

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.version_file.unlink(missing_ok=True)


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
        if _parse_allowed(newurl).scheme != "https" and req.type == "https":
            raise WeightsError(
                f"{_redact(urlsplit(req.full_url))} redirects from https:// to http://, which can "
                "be tampered with; not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_CheckedRedirects)


def _parse_allowed(address: str) -> SplitResult:
    """Split an address that is https://, or http:// on this machine; refuse any other."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise WeightsError(f"{address!r} is not a valid address: {error}") from error
    if parts.scheme == "https" and parts.hostname:
        return parts
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return parts
    if parts.scheme == "http":
        raise WeightsError(f"{_redact(parts)}: http:// can be tampered with; use https://")
    raise WeightsError(
        f"{_redact(parts)}: weights are read from paths and https:// only; workflows/ also read "
        "s3:// and models:/"
    )


def _redact(parts: SplitResult) -> str:
    """Return the address without parts that may be secret: user, password, query."""
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{parts.path}"


def _expected_digest(fragment: str, parts: SplitResult) -> Digest | None:
    if not fragment:
        return None
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise WeightsError(
            f"{_redact(parts)}#{fragment}: after # must be sha256= and 64 hexadecimal digits"
        )
    return Digest("sha256", match[1].lower())


def _extent(status: int, headers: Message) -> tuple[int, int | None]:
    """Return the response's first byte, and the length of the whole file if known."""
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _copy(response: IO[bytes], file: IO[bytes]) -> bool:
    """Write the response to the file, and return whether it ended without an interruption."""
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


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Let one worker of this machine download a file while the others wait for it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
