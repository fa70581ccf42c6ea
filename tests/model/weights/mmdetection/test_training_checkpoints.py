"""Checkpoints of MMDetection's trainings load as the weights alone; hostile ones are refused."""

import importlib
import os
import pickle
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from model.weights import WeightsError, load_network
from tests.model.weights.mmdetection.zoo import ZOO, make_weights


def test_wrapped_averaged_and_half_precision_weights_load_as_the_plain_ones(tmp_path):
    weights = make_weights(ZOO["faster DC5"])
    torch.save({"state_dict": weights, "meta": {}}, tmp_path / "a.pth")
    expected = load_network(tmp_path / "a.pth").state_dict()

    def same(state, **entries):
        torch.save({"state_dict": state, "meta": {}} | entries, tmp_path / "b.pth")
        actual = load_network(tmp_path / "b.pth").state_dict()
        return all(tensor.equal(actual[name]) for name, tensor in expected.items())

    assert same({f"module.{name}": tensor for name, tensor in weights.items()})
    # mmcv keeps the weights before averaging as buffers of the model.
    buffers = {f"ema_{n.replace('.', '_')}": torch.zeros_like(t) for n, t in weights.items()}
    assert same(weights | buffers)
    # MMEngine exchanges the two before it saves.
    raw = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()}
    assert same(weights, ema_state_dict=raw | {"steps": torch.tensor(3)}, message_hub={})
    half = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    halved = {n: t.half().float() for n, t in expected.items() if t.is_floating_point()}
    torch.save({"state_dict": half, "meta": {}}, tmp_path / "half.pth")
    actual = load_network(tmp_path / "half.pth").state_dict()
    assert all(actual[name].equal(tensor) for name, tensor in halved.items())


HISTORY_BUFFER = """
class HistoryBuffer:
    def mean(self):
        return 0

    def __getstate__(self):
        return {"log": __import__("numpy").arange(3.0), "methods": {"mean": HistoryBuffer.mean}}
"""


@pytest.fixture
def history(tmp_path, monkeypatch):
    """An object like those of MMEngine's log: pickled with an array and with its own method."""
    package = tmp_path / "mmengine" / "logging"
    package.mkdir(parents=True)
    (package / "history_buffer.py").write_text(HISTORY_BUFFER)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mmengine.logging.history_buffer").HistoryBuffer()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmengine"]:
        del sys.modules[name]


def test_a_checkpoint_of_a_training_loads_although_it_holds_mmengines_log(tmp_path, history):
    log = {"log_scalars": OrderedDict(loss=history), "runtime": {"lr": np.float64(0.1)}}
    weights = make_weights(ZOO["mask R50"])
    path = tmp_path / "epoch_12.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": weights, "message_hub": log}, path)
    name = "roi_head.bbox_head.shared_fcs.1.weight"
    assert load_network(path).roi_heads.box.fc2.weight.equal(weights[name])
    # What replaces the log is not left behind: torch refuses the file as before.
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        torch.load(path, weights_only=True)


def test_code_beside_mmengines_log_is_refused(tmp_path, history):
    hub = {"log": history, "x": Calls(os.system, ("touch ran",))}
    content = {"state_dict": make_weights(ZOO["mask R50"]), "message_hub": hub}
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load_network(tmp_path / "m.pth")


class Calls:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("entry", ["meta", "message_hub", "optimizer"])
@pytest.mark.parametrize(
    "call",
    [(os.system, ("true",)), (eval, ("1",)), (getattr, ("text", "upper"))],
    ids=["system", "eval", "getattr"],
)
def test_hostile_pickles_are_refused(tmp_path, entry, call):
    content = {"state_dict": make_weights(ZOO["faster DC5"]), "meta": {}}
    content[entry] = {"x": Calls(*call)}
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load_network(tmp_path / "m.pth")
