import pytest
import torch

from model import build_detector, save_detector
from model.weights import WeightsError, load_network


@pytest.fixture
def saved(tiny_config, tmp_path):
    detector = build_detector(tiny_config())
    save_detector(detector, tmp_path / "saved")
    return detector, tmp_path / "saved"


def test_the_prefix_of_distributed_training_is_removed(saved, tmp_path):
    detector, _ = saved
    state = {f"module.{name}": tensor for name, tensor in detector.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    loaded = load_network(tmp_path / "weights.pth", detector.config).state_dict()
    for name, tensor in detector.state_dict().items():
        assert tensor.equal(loaded[name])


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
