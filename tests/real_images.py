"""Real pictures, for the tests that want them. A module of its own: it needs nothing but pytest."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def coco_tiny():
    """The folder of 80 + 80 real COCO images that the environment variable COCO_TINY names."""
    folder = os.environ.get("COCO_TINY")
    if not folder:
        pytest.skip("COCO_TINY is not set: it names a folder with annotations/ and train2017/")
    return Path(folder)
