"""Flat arrays hold the same annotations as the rows, and classes are counted as by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.structures import Category
from pipeline import storage
from pipeline.explore.annotations import Annotations, read_annotations
from pipeline.explore.class_counts import ClassCount, count_classes, join_splits
from pipeline.explore.plots import input_scales, objects_per_image
from pipeline.shards.manifest import Manifest, read_manifest
from tests.annotated_datasets import CROWD, all_rows, draw_coco


@pytest.fixture
def shards(tmp_path):
    """12 images in three shards; one has no objects, one a crowd region."""
    source = draw_coco(tmp_path / "source")
    annotations = source.document["annotations"]
    source.document["annotations"] = [a for a in annotations if a["image_id"] != 4]
    source.document["annotations"][2] |= {
        "iscrowd": 1,
        "segmentation": CROWD,
        "bbox": [20, 0, 12, 48],
    }
    source.write_shards(tmp_path / "shards")
    return str(tmp_path / "shards")


def test_arrays_are_those_of_the_rows(shards):
    rows = all_rows(shards)
    read = read_annotations(shards, read_manifest(shards))
    assert read.sizes.tolist() == [list(row.size) for row in rows]
    assert read.image.tolist() == [n for n, row in enumerate(rows) for _ in row.labels]
    for name, field in (("labels",) * 2, ("boxes",) * 2, ("iscrowd",) * 2, ("areas", "area")):
        expected = np.concatenate([getattr(row, field) for row in rows])
        assert np.array_equal(getattr(read, name), expected)
    assert read.iscrowd.sum() == 1
    objects = read.objects()
    assert len(objects.labels) == len(read.labels) - 1
    assert len(objects.sizes) == 12
    assert objects_per_image(objects).tolist() == [(~row.iscrowd).sum() for row in rows]


def test_shards_without_rows_have_empty_arrays():
    read = read_annotations("/nowhere", Manifest(3, (), (), "", {}, {}))
    assert (read.sizes.shape, read.boxes.shape, read.labels.shape) == ((0, 2), (0, 4), (0,))
    assert count_classes(read, 2) == [ClassCount(), ClassCount()]


def test_an_unreadable_shard_is_named(shards, tmp_path):
    name = read_manifest(shards).files[1].name
    (tmp_path / "shards" / name).write_bytes(b"no parquet")
    with pytest.raises(storage.StorageError, match=f"{name}: cannot be read"):
        read_annotations(shards, read_manifest(shards))


@given(st.lists(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=5), max_size=8))
def test_images_and_objects_of_each_class_are_counted_without_crowd_regions(images):
    flat = [(n, label, crowd) for n, objects in enumerate(images) for label, crowd in objects]
    image, labels, iscrowd = (
        np.array([each[part] for each in flat], dtype=kind)
        for part, kind in enumerate((np.int64, np.int64, bool))
    )
    sizes = np.ones((len(images), 2), np.int64)
    none = np.zeros((len(flat), 4))
    counts = count_classes(Annotations(sizes, image, labels, none, none[:, 0], iscrowd), 4)
    for label, count in enumerate(counts, 1):
        per_image = [sum(each == (label, False) for each in objects) for objects in images]
        assert count == ClassCount(sum(n > 0 for n in per_image), sum(per_image))


def test_splits_are_joined_by_the_names_of_their_classes():
    train = ((Category(1, "cat"), Category(2, "dog")), (ClassCount(3, 4), ClassCount(1, 1)))
    val = ((Category(7, "Dog"), Category(8, "emu")), (ClassCount(5, 6), ClassCount(0, 0)))
    rows = join_splits({"train": train, "val": val})
    assert [row.name for row in rows] == ["cat", "dog", "emu"]
    assert rows[0].of_split == {"train": ClassCount(3, 4)}
    assert rows[1].of_split == {"train": ClassCount(1, 1), "val": ClassCount(5, 6)}


def test_scales_are_those_of_the_detectors_input():
    sizes = np.array([[480, 640], [427, 640], [100, 1000], [800, 800]])
    scales = input_scales(sizes, 800, 1333)
    assert scales.tolist() == pytest.approx([800 / 480, 800 / 427, 1.333, 1.0])
