import pytest
import torch
from safetensors.torch import save_file

from model import build_detector, save_detector
from model.weights import WeightsError, load_network


@pytest.fixture
def saved(tiny_config, tmp_path):
    detector = build_detector(tiny_config())
    save_detector(detector, tmp_path / "saved")
    return detector, tmp_path / "saved"


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def with_old(state, prefix):
    """Return the weights under a prefix, beside others under ``model.``."""
    old = {f"model.{name}": tensor + 1 for name, tensor in state.items()}
    return {**old, **prefixed(prefix)(state)}


def compiled_inside(state):
    """Return the names that ``torch.compile(detector.backbone)`` gives."""
    return {name.replace("backbone.", "backbone._orig_mod."): t for name, t in state.items()}


WRAPPED = {
    "DistributedDataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "compiled, then distributed": prefixed("module._orig_mod."),
    "distributed, then compiled": prefixed("_orig_mod.module."),
    "a compiled part": compiled_inside,
    "Lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3},
    "Lightning, another name": lambda state: {"state_dict": prefixed("net.")(state)},
    "an entry": lambda state: {"model_state_dict": state, "optimizer": {"state": {}}},
    "nested entries": lambda state: {"model": {"module": state}, "epoch": 1},
}


def older(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def averaged_model(state):
    return {**prefixed("module.")(state), "n_averaged": torch.tensor(7)}


AVERAGED = {
    "torchvision": lambda s: {"model": older(s), "model_ema": averaged_model(s), "epoch": 3},
    "timm": lambda state: {"state_dict": older(state), "state_dict_ema": state},
    "RT-DETR": lambda state: {"model": older(state), "ema": {"module": state, "updates": 5}},
    "ema_state_dict": lambda state: {"state_dict": older(state), "ema_state_dict": state},
    "a prefix": lambda state: with_old(state, "ema."),
    "a prefix of AveragedModel": lambda state: {
        **with_old(state, "model_ema.module."),
        "model_ema.n_averaged": torch.tensor(7),
    },
}


def load(content, saved, path):
    torch.save(content, path)
    return load_network(path, saved[0].config).state_dict()


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_found_in_their_wrapper(wrap, saved, tmp_path, caplog):
    expected = saved[0].state_dict()
    with caplog.at_level("INFO"):
        loaded = load(wrap(expected), saved, tmp_path / "weights.pth")
    for name, tensor in expected.items():
        assert tensor.equal(loaded[name]), name
    assert "averaged" not in caplog.text


@pytest.mark.parametrize("wrap", AVERAGED.values(), ids=AVERAGED)
def test_averaged_weights_are_preferred_and_the_log_says_so(wrap, saved, tmp_path, caplog):
    expected = saved[0].state_dict()
    with caplog.at_level("INFO"):
        loaded = load(wrap(expected), saved, tmp_path / "weights.pth")
    for name, tensor in expected.items():
        assert tensor.equal(loaded[name]), name
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "weights.pth: the file has averaged weights (EMA) beside others" in warning


def test_the_average_of_mmengine_is_where_others_keep_the_weights_in_training(saved, tmp_path):
    state = saved[0].state_dict()
    content = {"state_dict": state, "ema_state_dict": older(state), "message_hub": {}}
    loaded = load(content, saved, tmp_path / "weights.pth")
    assert all(tensor.equal(loaded[name]) for name, tensor in state.items())


def test_wrapped_names_in_a_safetensors_file_are_read_too(saved, tmp_path):
    state = saved[0].state_dict()
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(prefixed("_orig_mod.")(contiguous), tmp_path / "weights.safetensors")
    loaded = load_network(tmp_path / "weights.safetensors", saved[0].config).state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in state.items())


def test_an_unknown_entry_is_named_with_those_that_are_known(saved, tmp_path):
    content = {"weights": dict(saved[0].state_dict()), "epoch": 3}
    with pytest.raises(WeightsError) as raised:
        load(content, saved, tmp_path / "weights.pth")
    message = str(raised.value)
    assert f"weights (dict of {len(content['weights'])}), epoch (int)" in message
    assert "Weights are found under model_ema," in message


class Trojan:
    def __reduce__(self):
        return (pytest.fail, ("unpickling ran code",))


def truncate(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "there is no such file"),
        (truncate, "damaged"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_text("not weights at all"), "damaged"),
        (lambda p: torch.save({"model": Trojan()}, p), "unpickling"),
        (lambda p: torch.save([1, 2], p), "must hold tensors by name; got a list"),
        (lambda p: torch.save({"epoch": 3}, p), "not tensors: epoch"),
        (lambda p: torch.save({"elsewhere": torch.ones(1)}, p), "only elsewhere"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_or_foreign_file_is_an_error_that_names_it(
    saved, tmp_path, spoil, message, suffix
):
    detector, folder = saved
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(detector.state_dict(), path)
    else:
        path.write_bytes((folder / "model.safetensors").read_bytes())
        message = message if "no such" in message else "damaged"
    spoil(path)
    with pytest.raises(WeightsError, match=message) as raised:
        load_network(path, detector.config)
    assert path.name in str(raised.value)
