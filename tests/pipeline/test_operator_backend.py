"""Jobs warn at their start if no operator is compiled for their device."""

import pytest
import torch

from ops_cuda import library
from pipeline import operator_backend
from pipeline.infer.inference_worker import InferenceJob, InferenceWorker
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


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_compiled_operators_give_no_warning(device, kernels, caplog, monkeypatch):
    kernels("cpu", "cuda", "meta")
    asked = []
    monkeypatch.setattr(library, "_has_code_for", lambda gpu: asked.append(gpu) or True)
    warn_if_not_compiled(torch.device(device))
    assert not caplog.records
    assert asked == ([0] if device == "cuda:0" else []), "the code for this GPU is asked for now"


def test_an_inference_worker_warns_at_its_start(kernels, caplog):
    class ModelStub:
        def load(self, device, precision):
            return device, precision

    kernels("cpu")
    job = InferenceJob("predictions", 4, 0.5, "weights", "bf16")
    assert InferenceWorker(ModelStub(), job, "cuda", 1).predictor == ("cuda", "bf16")
    assert "not compiled for cuda" in caplog.text
