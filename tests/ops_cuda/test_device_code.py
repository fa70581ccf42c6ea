"""A GPU for which the library holds no code gets the reference implementations, and a warning."""

import ctypes
import importlib.util

import pytest
import torch

from ops_cuda import library

GPU = torch.device("cuda", 0)

with_cuda_library = pytest.mark.skipif(
    importlib.util.find_spec("_ops_cuda_gpu") is None, reason="the CUDA library is not built"
)


@pytest.fixture(autouse=True)
def asked_anew():
    library._has_code_for.cache_clear()
    yield
    library._has_code_for.cache_clear()


@with_cuda_library
def test_the_library_has_no_code_for_a_device_that_is_not_there():
    path = importlib.util.find_spec("_ops_cuda_gpu").origin
    assert not ctypes.CDLL(path).ops_cuda_has_code_for(1000)
    assert not ctypes.CDLL(path).ops_cuda_has_code_for(-1)


@with_cuda_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_without_code_runs_the_references_and_is_named_once(monkeypatch, caplog):
    # No GPU is here, so the library has no code for it: as for a GPU that is too old.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: "GeForce GTX 1080")
    for _ in range(2):
        assert not library.compiled_for("nms", GPU)
    (record,) = caplog.records
    message = record.getMessage()
    assert "no code for GeForce GTX 1080 (compute capability 6.1)" in message
    assert "TORCH_CUDA_ARCH_LIST=6.1" in message


def test_each_gpu_is_asked_about_itself(monkeypatch):
    monkeypatch.setattr(library, "KERNELS", {"nms": frozenset({"cpu", "cuda"})})
    monkeypatch.setattr(library, "_has_code_for", lambda gpu: gpu == 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert not library.compiled_for("nms", GPU)
    assert library.compiled_for("nms", torch.device("cuda", 1))
    assert library.compiled_for("nms", torch.device("cuda")), "the current GPU"
    assert library.compiled_for("nms", torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_library_has_code_for_this_gpu():
    assert library.compiled_for("nms", torch.device("cuda"))
