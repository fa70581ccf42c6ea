import pytest

from model import Category, build_detector, save_detector
from model.weights import WeightsError, load_network
from model.weights.storage.model_folder import find_model_folder

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


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 99}', "[]", "[" * 100_000, '"'])
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


def save_checkpoints(tiny_config, run, *steps):
    for step in steps:
        save_detector(build_detector(tiny_config(), CATEGORIES), run / f"train/step_{step:08d}")


@pytest.mark.parametrize("folder", ["", "train"])
def test_a_run_is_loaded_from_its_newest_complete_checkpoint(tiny_config, tmp_path, folder, caplog):
    save_checkpoints(tiny_config, tmp_path, 20, 100, 120)
    (tmp_path / "train/step_00000120/model.json").unlink()
    (tmp_path / "train/step_00000100").rename(tmp_path / "train/damaged-step_00000100")
    with caplog.at_level("INFO", logger="model.weights"):
        loaded = load_network(tmp_path / folder).state_dict()
    expected = load_network(tmp_path / "train/step_00000020").state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in expected.items())
    assert "loading its checkpoint" in caplog.text and "step_00000020" in caplog.text


@pytest.mark.parametrize(
    ("best", "step"),
    [
        ('{"checkpoint": "step_00000020"}', 20),
        ('{"checkpoint": null}', 40),
        ('{"checkpoint": "step_00000030"}', 40),  # deleted by someone
        ('{"checkpoint": "../../elsewhere"}', 40),
        ("[" * 100_000, 40),
        ('{"checkpoint": 20}', 40),
    ],
)
def test_a_run_is_loaded_from_the_checkpoint_that_it_names_as_the_best(
    tiny_config, tmp_path, best, step
):
    save_checkpoints(tiny_config, tmp_path, 20, 40)
    (tmp_path / "train/best.json").write_text(best)
    assert find_model_folder(tmp_path).name == f"step_{step:08d}"
    assert find_model_folder(tmp_path / "train").name == f"step_{step:08d}"


def test_a_folder_without_a_model_is_named_with_what_was_expected(tmp_path):
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor a checkpoint"):
        load_network(tmp_path)


def test_a_missing_config_is_named_with_the_remedy(saved):
    detector, folder = saved
    (folder / "model.json").unlink()
    (folder / "checksums.json").unlink()
    with pytest.raises(WeightsError, match=r"model\.json is missing; .* pass config="):
        load_network(folder)
    # The remedy.
    assert load_network(folder / "model.safetensors", detector.config).config == detector.config
