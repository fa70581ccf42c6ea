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


@pytest.fixture(scope="session")
def gpu_before_9(tmp_path_factory):
    """ROI align as GPUs before compute capability 9.0 run it, compiled for the CPU."""
    folder = tmp_path_factory.mktemp("emulation_before_9")
    build_emulation(folder, "ops_emulated_8", "roi_align.cu", ["VECTOR_ATOMICS=0"])
    return torch.ops.ops_emulated_8
