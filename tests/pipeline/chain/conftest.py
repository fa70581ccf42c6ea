"""A chain of a few drawn images and two steps, and the digests of what it leaves."""

import hashlib
from pathlib import Path

import pytest

from tests.pipeline.chain.small_chain import shrink


@pytest.fixture
def small_config(run_config):
    """A config that draws twelve shapes images and trains two steps on them."""
    return shrink(run_config)


@pytest.fixture
def files_below():
    """A function: folder -> SHA-256 of each file below it, by relative path."""

    def digests(folder):
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }

    return digests
