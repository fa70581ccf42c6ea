import pytest
import torch

import ops_cuda
from tests.ops_cuda.emulation.build import build_emulation
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


@pytest.fixture(scope="session")
def gpu(tmp_path_factory):
    """The CUDA kernels compiled for the CPU."""
    assert ops_cuda.backend().startswith("compiled")
    build_emulation(tmp_path_factory.mktemp("emulation"))
    return torch.ops.ops_emulated
