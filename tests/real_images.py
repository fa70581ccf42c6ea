"""Real COCO images for tests.

A separate module, so that tests/ops_cuda can use it without the packages of tests/conftest.py.
"""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def coco_tiny():
    """Folder of 80 + 80 real COCO images, given by the environment variable COCO_TINY."""
    folder = os.environ.get("COCO_TINY")
    if not folder:
        pytest.skip(
            "COCO_TINY is not set; set it to a folder with annotations/, train2017/ and val2017/"
        )
    return Path(folder)
