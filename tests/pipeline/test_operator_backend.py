import pytest
import torch

from ops_cuda import library
from pipeline import operator_backend
from pipeline.infer.inference_worker import InferenceWorker
from pipeline.operator_backend import warn_if_not_compiled


@pytest.fixture
def kernels(monkeypatch):
    """The devices that every operator is compiled for, to be set by the test."""

    def set_devices(*devices):
        fake = dict.fromkeys(("nms", "preprocess"), frozenset(devices))
        monkeypatch.setattr(library, "KERNELS", fake)
        monkeypatch.setattr(operator_backend, "KERNELS", fake)

    return set_devices


def test_a_gpu_without_compiled_operators_is_one_warning_with_the_remedy(kernels, caplog):
    kernels("cpu", "meta")
    warn_if_not_compiled(torch.device("cuda", 1))
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "not compiled for cuda" in record.getMessage()
    assert "`OPS_CUDA=1 pip install -e . --no-build-isolation`" in record.getMessage()


def test_a_cpu_without_compiled_operators_is_a_warning_too(kernels, caplog):
    kernels()
    warn_if_not_compiled(torch.device("cpu"))
    assert "`pip install -e . --no-build-isolation`" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_said_where_operators_are_compiled(device, kernels, caplog):
    kernels("cpu", "cuda", "meta")
    warn_if_not_compiled(torch.device(device))
    assert not caplog.records


def test_an_inference_worker_warns_at_its_start(kernels, caplog):
    class ModelStub:
        def load(self, device):
            return device

    kernels("cpu")
    assert InferenceWorker(ModelStub(), None, "cuda", 1).predictor == "cuda"
    assert "not compiled for cuda" in caplog.text
