import pytest
import torch

from tests.real_images import coco_tiny  # noqa: F401


@pytest.fixture
def two_thread_counts():
    """A function: compute -> [its result with one thread, its result with two threads]."""
    before = torch.get_num_threads()

    def both(compute):
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(compute())
        return results

    yield both
    torch.set_num_threads(before)
