"""Datasets that do not fit the model are refused before anything is read."""

import dataclasses
from pathlib import Path

import pytest

from model.config import KeypointHeadConfig, ModelConfig, RetinaNetConfig
from model.config.settings import ConfigError
from model.structures import Category
from pipeline import storage
from pipeline.config import DataConfig
from pipeline.shards.manifest import read_manifest, write_manifest
from pipeline.stream.dataset_checks import check_validation_data
from pipeline.stream.training_stream import open_local_stream


def error_of_opening(config, url):
    with pytest.raises(ConfigError) as caught:
        open_local_stream(config, url, 0, 1, 0, 1)
    return str(caught.value)


def with_keypoint_head(config, head):
    return config.model_copy(update={"model": config.model.model_copy(update={"keypoint": head})})


def rename_keypoints(config, shards, folder, names):
    """Copy the shards to ``folder`` under other keypoint names; return the config that fits."""
    storage.upload_folder(Path(shards), str(folder))
    manifest = read_manifest(shards)
    keypoints = dataclasses.replace(manifest.keypoints, names=names)
    write_manifest(str(folder), dataclasses.replace(manifest, keypoints=keypoints))
    return with_keypoint_head(config, KeypointHeadConfig(names=names))


def test_classes_and_masks_that_do_not_fit_the_model_are_refused(config, shards, tmp_path, caplog):
    other = config.model_copy(update={"model": ModelConfig(num_classes=80)})
    with pytest.raises(ConfigError, match=r"num_classes: .* has 5 categories; got 80"):
        open_local_stream(other, shards, 0, 1, 0, 1)
    storage.upload_folder(Path(shards), str(tmp_path))
    manifest = read_manifest(shards)
    counts = manifest.counts | {"without_mask": manifest.counts["objects"]}
    write_manifest(str(tmp_path), dataclasses.replace(manifest, counts=counts))
    with pytest.raises(ConfigError, match=r"no object of .* has a mask"):
        open_local_stream(config, str(tmp_path), 0, 1, 0, 1)
    boxes_only = config.model.model_copy(update={"mask": None})
    pasting = DataConfig(copy_paste_probability=0.5)
    with pytest.raises(ConfigError, match=r"no object of .* has a mask to cut it out with"):
        changes = {"model": boxes_only, "data": pasting}
        open_local_stream(config.model_copy(update=changes), str(tmp_path), 0, 1, 0, 1)
    counts = manifest.counts | {"without_mask": 2}
    write_manifest(str(tmp_path), dataclasses.replace(manifest, counts=counts))
    pasting = config.model_copy(update={"data": pasting})
    open_local_stream(pasting, str(tmp_path), 0, 1, 0, 1).close()
    assert "2 of " in caplog.text and "the mask loss leaves them out" in caplog.text
    assert "have no mask, so copy-paste never pastes them" in caplog.text


def test_shards_of_other_classes_than_those_selected_are_refused(config, shards):
    names = [category.name for category in read_manifest(shards).categories]

    def select(classes):
        data = config.data.model_copy(update={"classes": tuple(classes)})
        return config.model_copy(update={"data": data})

    open_local_stream(select(name.upper() for name in names), shards, 0, 1, 0, 1).close()
    for other in (names[::-1], names[:3]):
        error = error_of_opening(select(other), shards)
        assert "data.classes: " in error and "run maskrcnn-ray prepare_shards" in error


def test_weights_of_classes_that_do_not_exist_are_refused(config, shards):
    names = [category.name for category in read_manifest(shards).categories]

    def weigh(name):
        box = config.model.box.model_copy(update={"class_weights": {name: 2.0}})
        return config.model_copy(update={"model": config.model.model_copy(update={"box": box})})

    open_local_stream(weigh(names[0]), shards, 0, 1, 0, 1).close()
    error = error_of_opening(weigh(f"{names[0]}s"), shards)
    assert f"has no class {names[0]}s; did you mean {names[0]}?" in error
    assert "its classes are" in error_of_opening(weigh("zzz"), shards)
    retinanet = {"box": None, "mask": None, "retinanet": RetinaNetConfig(class_weights={"x": 2.0})}
    one_stage = config.model_copy(update={"model": config.model.model_copy(update=retinanet)})
    assert "model.retinanet.class_weights: " in error_of_opening(one_stage, shards)


def test_shards_without_any_object_cannot_be_trained_on_if_such_images_are_dropped(
    config, shards, tmp_path
):
    storage.upload_folder(Path(shards), str(tmp_path))
    manifest = read_manifest(shards)
    counts = manifest.counts | {"objects": 0}
    write_manifest(str(tmp_path), dataclasses.replace(manifest, counts=counts))
    data = config.data.model_copy(update={"images_without_objects": "drop"})
    error = error_of_opening(config.model_copy(update={"data": data}), str(tmp_path))
    assert "set data.images_without_objects=keep" in error


def test_keypoints_that_do_not_fit_the_model_are_refused(
    keypoint_config, keypoint_shards, tmp_path
):
    person = with_keypoint_head(keypoint_config, KeypointHeadConfig())
    error = error_of_opening(person, keypoint_shards)
    assert "must be those of" in error
    assert "[top, left_side, right_side, bottom]; got [nose, left_eye" in error
    storage.upload_folder(Path(keypoint_shards), str(tmp_path))
    manifest = read_manifest(keypoint_shards)
    write_manifest(str(tmp_path), dataclasses.replace(manifest, keypoints=None))
    assert "has no keypoints" in error_of_opening(keypoint_config, str(tmp_path))
    boxes_only = with_keypoint_head(keypoint_config, None)
    min_keypoints = boxes_only.model_copy(update={"data": DataConfig(min_keypoints=1)})
    assert "data.min_keypoints: " in error_of_opening(min_keypoints, str(tmp_path))


def test_validation_shards_may_lack_keypoints_but_not_have_others(keypoint_config, keypoint_shards):
    manifest = read_manifest(keypoint_shards)
    check_validation_data(keypoint_config, manifest, keypoint_shards)
    without = dataclasses.replace(manifest, keypoints=None)
    check_validation_data(keypoint_config, without, keypoint_shards)
    boxes_only = with_keypoint_head(keypoint_config, None)
    check_validation_data(boxes_only, manifest, keypoint_shards)
    person = with_keypoint_head(keypoint_config, KeypointHeadConfig())
    with pytest.raises(ConfigError, match="must be those of"):
        check_validation_data(person, manifest, keypoint_shards)


def test_splits_are_matched_by_class_names_before_training(config, shards, caplog):
    manifest = read_manifest(shards)
    learned = manifest.categories
    others = tuple(Category(n, name) for n, name in enumerate(("hexagon", "heart")))
    with pytest.raises(ConfigError, match=r"no class has the same name: .*hexagon, heart"):
        other = dataclasses.replace(manifest, categories=others)
        check_validation_data(config, other, shards, learned)
    assert not caplog.records
    rare = dataclasses.replace(manifest, categories=(learned[2], others[0]))
    check_validation_data(config, rare, shards, learned)
    assert "AP will be 0 if they have objects: hexagon" in caplog.text


def test_keypoint_names_that_cannot_be_flipped_train_only_without_flips(
    keypoint_config, keypoint_shards, tmp_path
):
    names = ("top", "left_side", "other", "bottom")
    config = rename_keypoints(keypoint_config, keypoint_shards, tmp_path, names)
    error = error_of_opening(config, str(tmp_path))
    assert "left_side has no counterpart right_side" in error
    vertical = DataConfig(flip_probability=0.0, vertical_flip_probability=0.5)
    error = error_of_opening(config.model_copy(update={"data": vertical}), str(tmp_path))
    assert "set data.flip_probability=0 and data.vertical_flip_probability=0" in error
    no_flips = config.model_copy(
        update={"data": DataConfig(flip_probability=0.0, quarter_turn_probability=0.5)}
    )
    with open_local_stream(no_flips, str(tmp_path), 0, 1, 0, 1) as stream:
        assert next(stream).targets.keypoints.shape[1:] == (4, 3)


def test_keypoint_names_without_sides_give_a_warning(
    keypoint_config, keypoint_shards, tmp_path, caplog
):
    names = ("N", "W", "E", "S")
    config = rename_keypoints(keypoint_config, keypoint_shards, tmp_path, names)
    open_local_stream(config, str(tmp_path), 0, 1, 0, 1).close()
    assert "no keypoint is named left_" in caplog.text
