"""Digests of files, whole or only their first digits."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Digest:
    """What is known of the digest of a file.

    Args:
        algorithm: how it is computed.
        digits: its first hexadecimal digits, or all; a few of them reveal damage, but not a file
            that somebody made to have the same.
    """

    algorithm: Literal["sha256", "md5"]
    digits: str

    def matches(self, path: Path) -> bool:
        """Whether the file has this digest."""
        return self.of(path).startswith(self.digits.lower())

    def of(self, path: Path) -> str:
        """Return the whole digest of a file by the same algorithm, in hexadecimal digits."""
        with path.open("rb") as file:
            # MD5 only detects damage; it is what the publisher states.
            return hashlib.file_digest(
                file, lambda: hashlib.new(self.algorithm, usedforsecurity=False)
            ).hexdigest()

    def __str__(self) -> str:
        kind = {"sha256": "SHA-256", "md5": "MD5"}[self.algorithm]
        return f"{kind} {self.digits}"
