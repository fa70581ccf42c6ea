"""VOC files as tools export them: any names, sizes, extensions and classes."""

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.cityscapes import read_cityscapes
from pipeline.ingest.class_selection import select_classes
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.splits import prepare_split
from pipeline.ingest.voc import read_voc
from pipeline.ingest.voc_classes import VOC_CLASSES
from tests.annotated_datasets import (
    HEIGHT,
    WIDTH,
    all_rows,
    rectangle,
    voc_object,
    voc_xml,
    write_cityscapes,
    write_voc,
    write_voc_masks,
)

CAT = voc_object("cat", 5, 5, 20, 20)


def write(root, shards, classes=(), **options):
    listing = read_voc(str(root), "trainval", 2012, classes=classes, **options)
    return write_shards(select_classes(listing, classes), str(shards), 8, 8)


def edit(root, name, change):
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(change(path.read_text()))


NAMES = [
    *("1_10", "11_0", "110", "007", "7"),
    *("two words", "a+b", "a,b", "IMG (1)", "zurück", "写真", "-dash", ".hidden", "v1.2", "sub/x"),
    *("100%", "it's", "a&b", "#1", "a=b", "photo 1"),
]


def test_images_of_any_name_are_kept_under_different_ids(tmp_path):
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / "VOC2012" / folder / "sub").mkdir(parents=True)
    root = write_voc(tmp_path / "VOC2012", {name: [] for name in NAMES})
    for name in NAMES:
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml("x", [CAT]))
    manifest = write(root, tmp_path / "s")
    assert not manifest.reasons
    rows = {row.file_name: row.image_id for row in all_rows(tmp_path / "s")}
    assert set(rows) == {f"{name}.jpg" for name in NAMES}
    assert len(set(rows.values())) == len(NAMES)
    assert (rows["7.jpg"], rows["110.jpg"]) == (7, 110)


@pytest.mark.parametrize(
    "stated",
    ["", "a", "other.png", r"C:\data\a.jpg", "/data/a.jpg", "a.jpeg", "../a.jpg", "a.jpg "],
)
def test_the_image_is_found_whatever_the_filename_says(tmp_path, stated):
    root = write_voc(tmp_path / "VOC2012", {"a": [CAT]})
    edit(root, "a", lambda text: text.replace("<filename>a.jpg", f"<filename>{stated}"))
    assert not write(root, tmp_path / "s").reasons


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".bmp", ".tif", ".webp"])
def test_images_may_have_any_known_extension(tmp_path, suffix):
    root = write_voc(tmp_path / "VOC2012", {"a": [CAT]})
    with Image.open(root / "JPEGImages/a.jpg") as image:
        image.save(root / f"JPEGImages/a{suffix}")
    (root / "JPEGImages/a.jpg").unlink()
    assert not write(root, tmp_path / "s").reasons
    assert [row.file_name for row in all_rows(tmp_path / "s")] == [f"a{suffix}"]


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (WIDTH, 0), ("60.0", "40.0")])
def test_a_size_of_zero_is_read_from_the_image(tmp_path, size):
    root = write_voc(tmp_path / "VOC2012", {"a": voc_xml("a", [CAT], size=size)})
    assert not write(root, tmp_path / "s").reasons
    assert all_rows(tmp_path / "s")[0].size == (HEIGHT, WIDTH)


def test_a_missing_size_is_read_from_the_image(tmp_path):
    root = write_voc(tmp_path / "VOC2012", {"a": f"<annotation>{CAT}</annotation>"})
    assert write(root, tmp_path / "s").counts["objects"] == 1


HELMETS = {
    "a": [voc_object("helmet", 5, 5, 20, 20), voc_object("person", 5, 5, 40, 30)],
    "b": [voc_object("vest", 5, 5, 20, 20)],
}


def test_other_classes_are_learned_from_the_files_and_said(tmp_path, caplog):
    root = write_voc(tmp_path / "VOC2012", HELMETS)
    manifest = write(root, tmp_path / "s")
    assert [category.name for category in manifest.categories] == ["helmet", "person", "vest"]
    assert not manifest.reasons
    assert "helmet, person, vest" in caplog.text and "data.classes" in caplog.text


def test_classes_may_be_given(tmp_path):
    root = write_voc(tmp_path / "VOC2012", HELMETS)
    manifest = write(root, tmp_path / "s", classes=("vest", "helmet"))
    assert [tuple(category) for category in manifest.categories] == [(1, "vest"), (2, "helmet")]
    assert (manifest.reasons, manifest.counts["other_classes"]) == ({}, 1)
    other = write(root, tmp_path / "s", classes=("helmet", "vest"))
    assert other.digest != manifest.digest


def test_a_few_unknown_names_do_not_change_the_classes_but_count_against_the_limit(tmp_path):
    root = write_voc(tmp_path / "VOC2012", {"a": [CAT, CAT, voc_object("cta", 5, 5, 20, 20)]})
    assert [c.name for c in write(root, tmp_path / "s").categories] == list(VOC_CLASSES)
    part = {"root": str(root), "set": "trainval"}

    def prepare(**settings):
        data = {"source": "voc", "train": part, "val": part} | settings
        config = RunConfig.model_validate({"output": str(tmp_path / "out"), "data": data})
        return prepare_split(config, "train")

    with pytest.raises(storage.StorageError, match=r"unknown category \(1\).*data\.classes"):
        prepare()
    assert prepare(max_quarantined=0.5).counts["objects"] == 2


def test_masks_of_learned_classes_are_not_compared_by_class_number(tmp_path):
    objects = [voc_object("helmet", 6, 6, 20, 20)]
    root = write_voc(tmp_path / "VOC2012", {"a": objects}, kind="Segmentation")
    numbers = np.zeros((HEIGHT, WIDTH), int)
    numbers[5:20, 5:20] = 1
    write_voc_masks(root, "a", numbers, numbers * 9)
    manifest = write(root, tmp_path / "s", masks=True)
    assert not manifest.reasons and manifest.counts["without_mask"] == 0


def test_cityscapes_images_of_one_name_in_two_cities_are_both_kept(tmp_path):
    objects = [("car", rectangle(5, 5, 20, 20))]
    root = write_cityscapes(tmp_path / "in", {"a/1": objects, "b/1": objects, "c/2": objects})
    write_shards(read_cityscapes(str(root), "train"), str(tmp_path / "s"), 8, 8)
    rows = {row.file_name: row.image_id for row in all_rows(tmp_path / "s")}
    assert len(set(rows.values())) == 3 and rows["c/2_leftImg8bit.png"] == 2
