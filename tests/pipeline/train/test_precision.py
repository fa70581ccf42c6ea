"""Precision selects the autocast dtype and scales gradients only for fp16."""

import pytest
import torch

from model.inference.precision import fastest_precision
from pipeline.train.precision import Precision

CPU = torch.device("cpu")


def test_fp16_on_a_cpu_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"needs a GPU.*bf16"):
        Precision("fp16", CPU)


@pytest.mark.parametrize(("kind", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_computes_in_the_configured_type(kind, dtype):
    layer = torch.nn.Linear(4, 4)
    with Precision(kind, CPU).autocast():
        assert layer(torch.ones(1, 4)).dtype == dtype


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_only_fp16_scales_gradients(kind):
    precision = Precision(kind, CPU)
    assert precision.scaler.scale(torch.tensor(3.0)).item() == 3.0
    assert not precision.skips_overflows


def test_auto_is_the_fastest_precision_of_the_device(monkeypatch):
    assert Precision("auto", CPU).kind == "fp32"
    for capability, kind in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert fastest_precision(torch.device("cuda")) == kind
