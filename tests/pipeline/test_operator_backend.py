"""Jobs warn at their start if no operator is compiled for their device."""

import pytest
import torch

from ops_cuda import library
from pipeline import operator_backend
from pipeline.infer.inference_worker import InferenceWorker
from pipeline.operator_backend import warn_if_not_compiled


@pytest.fixture
def kernels(monkeypatch):
    """A function that sets the devices that the operators are compiled for."""

    def set_devices(*devices):
        fake = dict.fromkeys(("nms", "preprocess"), frozenset(devices))
        monkeypatch.setattr(library, "KERNELS", fake)
        monkeypatch.setattr(operator_backend, "KERNELS", fake)

    return set_devices


def test_one_warning_says_how_to_compile_the_operators_for_a_gpu(kernels, caplog):
    kernels("cpu", "meta")
    warn_if_not_compiled(torch.device("cuda", 1))
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "not compiled for cuda" in record.getMessage()
    assert "`OPS_CUDA=1 pip install -e . --no-build-isolation`" in record.getMessage()


def test_a_warning_says_how_to_compile_the_operators_for_the_cpu(kernels, caplog):
    kernels()
    warn_if_not_compiled(torch.device("cpu"))
    assert "`pip install -e . --no-build-isolation`" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiled_operators_give_no_warning(device, kernels, caplog):
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
