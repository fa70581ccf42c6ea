import pytest

from model import Category, build_detector, save_detector
from model.weights import WeightsError, load_network

CATEGORIES = (Category(3, "cat"), Category(9, "dog"), Category(70, "owl"))


@pytest.fixture
def saved(tiny_config, tmp_path):
    detector = build_detector(tiny_config(), CATEGORIES)
    save_detector(detector, tmp_path / "saved")
    return detector, tmp_path / "saved"


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_saved_detector_is_loaded_unchanged(saved, file):
    detector, folder = saved
    loaded = load_network(folder / file)
    for name, tensor in detector.state_dict().items():
        assert tensor.equal(loaded.state_dict()[name])
    assert loaded.config == detector.config
    assert loaded.categories == CATEGORIES
    assert not loaded.training


def test_the_weights_have_the_file_permissions_of_the_config(saved):
    modes = {path.name: path.stat().st_mode for path in saved[1].iterdir()}
    assert modes["model.safetensors"] == modes["model.json"]


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 99}', "[]"])
def test_a_damaged_config_is_an_error_that_names_the_file(saved, text):
    (saved[1] / "model.json").write_text(text)
    with pytest.raises(WeightsError, match=r"model\.json"):
        load_network(saved[1])


def test_a_saved_retinanet_is_loaded_unchanged(build_retinanet, tmp_path):
    detector = build_retinanet("cat", "dog")
    save_detector(detector, tmp_path)
    loaded = load_network(tmp_path)
    assert loaded.config == detector.config
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(detector.state_dict()[name])
