"""Datasets and test settings of a maskrcnn-benchmark config."""

import pytest

from tests.pipeline.config.maskrcnn_benchmark import original_files


@pytest.mark.parametrize(
    ("train", "test", "source", "roots"),
    [
        ("voc_2007_train", "voc_2007_val", "voc", ["data/VOCdevkit/VOC2007"]),
        (
            "cityscapes_mask_instance_train",
            "cityscapes_mask_instance_val",
            "cityscapes",
            ["data/cityscapes"],
        ),
    ],
)
def test_dataset_names_become_parts_of_the_splits(train, test, source, roots, import_text):
    data = import_text(f"DATASETS: {{TRAIN: ['{train}'], TEST: ['{test}']}}").config.data
    assert data.source == source
    assert [part.root for part in data.train] == roots
    assert (data.train[0].set, data.val[0].set) == ("train", "val")


def test_only_coco_images_without_objects_are_dropped(import_text):
    """As maskrcnn-benchmark, whose other datasets keep them."""
    for name, setting in (("coco_2017_train", "drop"), ("voc_2007_train", "keep")):
        data = import_text(f"DATASETS: {{TRAIN: ['{name}'], TEST: ['{name}']}}").config.data
        assert data.images_without_objects == setting


def test_unknown_datasets_get_placeholder_paths_and_are_reported(import_text):
    imported = import_text("DATASETS: {TRAIN: ['my parts'], TEST: ['my_val']}")
    assert imported.config.data.train[0].annotations == "data/my_parts/annotations.json"
    assert {item.key for item in imported.skipped} == {"DATASETS.TRAIN", "DATASETS.TEST"}


def test_test_time_augmentation_uses_the_test_size_and_the_additional_scales(import_text):
    augmentation = "ENABLED: True, SCALES: [400, 1200], MAX_SIZE: 2000, H_FLIP: True"
    imported = import_text(
        original_files.MASK_R50_FPN + f"TEST: {{BBOX_AUG: {{{augmentation}}}}}\n"
    )
    converted = imported.config.model.test_augmentation
    assert converted.short_sides == (800, 400, 1200)
    assert (converted.long_side, converted.flip) == (2000, True)
    skipped = {item.key: item.value for item in imported.skipped}
    assert skipped["TEST.BBOX_AUG.SCALE_H_FLIP"] is False
    assert skipped["INPUT.MAX_SIZE_TEST"] == 1333


@pytest.mark.parametrize("kind", ["linear", "constant"])
def test_both_kinds_of_warm_up_are_converted(kind, import_text):
    imported = import_text(
        original_files.MASK_R50_FPN + f"SOLVER: {{WARMUP_METHOD: {kind}, WARMUP_ITERS: 7}}\n"
    )
    schedule = imported.config.train.schedule
    assert (schedule.warmup_kind, schedule.warmup_steps) == (kind, 7)
    assert "SOLVER.WARMUP_METHOD" not in {item.key for item in imported.skipped}
