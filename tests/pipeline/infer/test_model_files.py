"""A detector's files on their way to workers keep their settings, except test-time augmentation."""

import pytest

from model import ModelConfig, build_detector, save_detector
from pipeline.infer.model_files import ModelFiles


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
