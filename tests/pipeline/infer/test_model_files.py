"""Workers load a detector with the settings of its files, except test-time augmentation."""

from pathlib import Path

import pytest
import torch

from model import ModelConfig, build_detector, load_detector, save_detector
from pipeline.config import load_config
from pipeline.infer.model_files import ModelFiles
from tests.model.weights.detectron2.zoo import ZOO, make_weights

RECIPES = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize(
    ("stated", "sizes"), [({}, 2), ({"test_augmentation": None}, None)], ids=["unset", "null"]
)
def test_an_unset_test_augmentation_keeps_that_of_the_model_and_null_removes_it(
    tiny_model_config, tmp_path, stated, sizes
):
    augmentation = {"test_augmentation": {"short_sides": (48, 64), "long_side": 96}}
    settings = tiny_model_config.model_dump(exclude={"test_augmentation"})
    saved = build_detector(ModelConfig.model_validate(settings | augmentation))
    save_detector(saved, tmp_path)
    files = ModelFiles.read(tmp_path, ModelConfig.model_validate(settings | stated))
    loaded = files.load("cpu").config.test_augmentation
    assert (loaded and len(loaded.short_sides)) == sizes


def test_tiles_are_those_of_the_config_if_it_states_them(tiny_model_config, tmp_path):
    settings = tiny_model_config.model_dump(exclude={"tiles", "test_augmentation"})
    saved = ModelConfig.model_validate(settings | {"tiles": {"size": 48}})
    save_detector(build_detector(saved), tmp_path)

    def loaded(**stated):
        files = ModelFiles.read(tmp_path, ModelConfig.model_validate(settings | stated))
        return files.load("cpu").tiles, files.digest

    assert loaded()[0] == saved.tiles
    assert loaded(tiles=None)[0] is None
    assert loaded(tiles={"size": 32})[0].size == 32
    digests = {loaded(tiles=each)[1] for each in (None, {}, {"size": 32})}
    assert len(digests) == 3  # predictions in other tiles are not taken over


@pytest.fixture
def theirs(tmp_path):
    """Weights of detectron2's Mask R-CNN on C4, which it pads to multiples of 1."""
    path = tmp_path / "model_final.pth"
    torch.save({"model": make_weights(ZOO["mask R50 C4"])}, path)
    return path


def test_weights_of_another_library_keep_their_conventions_and_warn_once(theirs, caplog):
    recipe = load_config(RECIPES / "mask_rcnn_r50_c4_1x.yaml", ["model.input.short_side=80"]).model
    files = ModelFiles.read(theirs, recipe)
    [warning] = caplog.messages
    assert "model.conventions.roi_aligned = true (the config: false)" in warning
    caplog.clear()
    loaded = files.load("cpu").config
    assert not any("roi_aligned" in message for message in caplog.messages)
    assert loaded == load_detector(theirs, short_side=80).config
    assert loaded.conventions.roi_aligned
    assert loaded.input.size_divisor == 1


def test_the_digest_depends_on_the_settings_that_are_used(theirs):
    digests = {
        ModelFiles.read(theirs, ModelConfig.model_validate(settings)).digest
        for settings in (
            {},
            {"conventions": {"roi_aligned": False}},  # not used
            {"input": {"short_side": 80}},
        )
    }
    assert len(digests) == 2


def test_settings_that_a_saved_model_does_not_follow_are_listed(
    tiny_model_config, tmp_path, caplog
):
    save_detector(build_detector(tiny_model_config), tmp_path)
    ModelFiles.read(tmp_path, tiny_model_config)
    assert not caplog.messages
    stated = {"input": {"short_side": 1000}, "test_augmentation": {}}
    files = ModelFiles.read(tmp_path, ModelConfig.model_validate(stated))
    [warning] = caplog.messages
    own = tiny_model_config.input
    assert f"model.input.short_side = {own.short_side} (the config: 1000)" in warning
    assert "test_augmentation" not in warning
    loaded = files.load("cpu").config
    assert loaded.input == own
    assert loaded.test_augmentation is not None
