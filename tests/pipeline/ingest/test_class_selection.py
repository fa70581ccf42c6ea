"""``data.classes`` selects and orders the classes of every source; other objects are left out."""

import json

import numpy as np
import pytest

from model.config.settings import ConfigError
from model.structures import Category
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.splits import prepare_split
from pipeline.shards.coco_ground_truth import coco_ground_truth
from tests.annotated_datasets import (
    HEIGHT,
    WIDTH,
    all_rows,
    draw_coco,
    quarantine_entries,
    rectangle,
    voc_object,
    write_cityscapes,
    write_voc,
    write_voc_masks,
)


@pytest.fixture
def source(tmp_path):
    return draw_coco(tmp_path / "source", keypoints=True)


def coco_part(source):
    source.annotations.write_text(json.dumps(source.document))
    return {"annotations": str(source.annotations), "images": str(source.images)}


def prepare(output, source, parts, **settings):
    data = {"source": source, "train": parts, "val": parts, "rows_per_shard": 5} | settings
    config = RunConfig.model_validate({"output": str(output), "data": data})
    return prepare_split(config, "train")


def objects_by_name(shards, manifest):
    names = [category.name for category in manifest.categories]
    rows = all_rows(shards)
    return {
        (row.image_id, int(number)): names[label - 1]
        for row in rows
        for number, label in zip(row.annotation_id, row.labels, strict=True)
    }


def test_selected_classes_keep_their_objects_in_the_given_order(source, tmp_path):
    names = {record["id"]: record["name"] for record in source.document["categories"]}
    manifest = prepare(tmp_path, "coco", coco_part(source), classes=["star", "Circle"])
    by_name = {name: number for number, name in names.items()}
    assert manifest.categories == (
        Category(by_name["star"], "star"),
        Category(by_name["circle"], "circle"),
    )
    annotations = source.document["annotations"]
    kept = {
        (a["image_id"], a["id"]): names[a["category_id"]]
        for a in annotations
        if names[a["category_id"]] in ("star", "circle")
    }
    shards = tmp_path / "shards" / "train"
    assert objects_by_name(shards, manifest) == kept
    counts = manifest.counts
    assert counts["images"] == 12
    assert counts["other_classes"] == len(annotations) - len(kept) > 0
    assert counts["annotations_listed"] == len(annotations)
    assert counts["objects"] + counts["other_classes"] == len(annotations)
    assert not manifest.reasons and quarantine_entries(shards) == []
    assert f"{counts['other_classes']} annotations of other classes left out" in manifest.summary()
    assert manifest.keypoints.category_ids == tuple(sorted((by_name["circle"], by_name["star"])))
    ground_truth = coco_ground_truth(str(shards))
    assert {a["category_id"] for a in ground_truth["annotations"]} == {
        by_name["star"],
        by_name["circle"],
    }


def test_unknown_names_are_refused_with_the_nearest(source, tmp_path):
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path, "coco", coco_part(source), classes=["sqare", "star", "zebra"])
    first, second = caught.value.problems
    assert "data.classes: 'sqare' is not a class of" in first and "did you mean 'square'?" in first
    assert "'zebra'" in second and "it has circle, " in second


def test_a_name_of_two_classes_is_refused(source, tmp_path):
    source.document["categories"][1]["name"] = "circle"
    with pytest.raises(ConfigError, match="has 2 classes named 'circle'"):
        prepare(tmp_path, "coco", coco_part(source), classes=["circle"])


def test_a_selected_class_may_be_empty_but_not_all(source, tmp_path):
    source.document["categories"].append({"id": 99, "name": "unicorn"})
    manifest = prepare(tmp_path / "a", "coco", coco_part(source), classes=["unicorn", "star"])
    assert [category.name for category in manifest.categories] == ["unicorn", "star"]
    assert {label for row in all_rows(tmp_path / "a/shards/train") for label in row.labels} == {2}
    assert manifest.keypoints is not None
    message = r"is an object of the classes in data\.classes: .* select other classes"
    with pytest.raises(storage.StorageError, match=message):
        prepare(tmp_path / "b", "coco", coco_part(source), classes=["unicorn"])


def test_the_share_that_may_be_quarantined_is_one_of_the_selected_classes(source, tmp_path):
    """One damaged annotation of few selected ones is too much, although it is one of many."""
    star = next(c["id"] for c in source.document["categories"] if c["name"] == "star")
    stars = [a for a in source.document["annotations"] if a["category_id"] == star]
    stars[0]["bbox"] = [1, 1, 0, 5]
    share = 1 / len(source.document["annotations"])
    limit = (share + 1 / len(stars)) / 2
    with pytest.raises(storage.StorageError, match=f"1 of {len(stars)} annotations left out"):
        prepare(tmp_path, "coco", coco_part(source), classes=["star"], max_quarantined=limit)
    prepare(tmp_path, "coco", coco_part(source), max_quarantined=limit)


def test_another_order_writes_the_shards_again(source, tmp_path):
    part = coco_part(source)
    first = prepare(tmp_path, "coco", part, classes=["star", "circle"])
    again = prepare(tmp_path, "coco", part, classes=["star", "circle"])
    other = prepare(tmp_path, "coco", part, classes=["circle", "star"])
    assert again == first
    assert other.digest != first.digest


def test_parts_with_different_categories_combine_if_the_selected_ones_agree(source, tmp_path):
    other = draw_coco(tmp_path / "other")
    other.document["categories"].append({"id": 77, "name": "extra"})
    for image in other.document["images"]:
        image["id"] += 100
    for annotation in other.document["annotations"]:
        annotation["image_id"] += 100
    parts = [coco_part(source), coco_part(other)]
    with pytest.raises(storage.StorageError, match="different categories"):
        prepare(tmp_path, "coco", parts)
    assert prepare(tmp_path, "coco", parts, classes=["star"]).rows == 24


def test_shapes_have_selectable_classes_too(tmp_path):
    shapes = {"images": 6, "val_images": 4, "side": 32}
    config = {"output": str(tmp_path), "data": {"shapes": shapes, "classes": ["square"]}}
    manifest = prepare_split(RunConfig.model_validate(config), "train")
    assert [category.name for category in manifest.categories] == ["square"]


def test_classes_of_voc_keep_the_numbers_of_their_masks(tmp_path):
    """Person is class 15 in VOC's masks, whatever classes are selected."""
    objects = [voc_object("person", 1, 1, 20, 20), voc_object("cat", 31, 11, 50, 30)]
    root = write_voc(tmp_path / "VOC2012", {"a": objects}, kind="Segmentation")
    numbers = np.zeros((HEIGHT, WIDTH), int)
    numbers[0:20, 0:20], numbers[10:30, 30:50] = 1, 2
    classes = np.select([numbers == 1, numbers == 2], [15, 8], 0)
    write_voc_masks(root, "a", numbers, classes)
    part = {"root": str(root), "set": "trainval", "masks": True}
    manifest = prepare(tmp_path, "voc", part, classes=["person"])
    assert manifest.counts | {"objects": 1, "without_mask": 0, "other_classes": 1} == (
        manifest.counts
    )
    assert manifest.categories == (Category(15, "person"),)


def test_classes_of_voc_have_the_same_ids_in_all_parts(tmp_path):
    roots = [
        write_voc(tmp_path / "VOC2007", {"1": [voc_object("person", 1, 1, 20, 20)]}),
        write_voc(
            tmp_path / "VOC2012",
            {"2": [voc_object(name, 1, 1, 20, 20) for name in ("person", "cat", "helmet")]},
        ),
    ]
    parts = [{"root": str(root), "set": "trainval"} for root in roots]
    manifest = prepare(tmp_path, "voc", parts, classes=["person"])
    assert (manifest.counts["objects"], manifest.counts["other_classes"]) == (2, 2)


def test_a_misspelled_class_of_a_layout_without_a_list_of_classes_is_refused(tmp_path, caplog):
    objects = [voc_object(name, 1, 1, 20, 20) for name in ("helmet", "vest")]
    root = write_voc(tmp_path / "VOC2012", {"a": objects})
    part = {"root": str(root), "set": "trainval"}
    with pytest.raises(ConfigError, match=r"'helmt' is not a class of .* did you mean 'helmet'?"):
        prepare(tmp_path, "voc", part, classes=["vest", "helmt"])
    manifest = prepare(tmp_path, "voc", part, classes=["vest", "boot"])
    assert "no object of the classes boot" in caplog.text
    assert [category.name for category in manifest.categories] == ["vest", "boot"]


def test_other_classes_of_cityscapes_still_hide_what_is_behind_them(tmp_path):
    """A car in front of a person is left out, and so are the pixels of the person behind it."""
    objects = [("person", rectangle(5, 5, 24, 24)), ("car", rectangle(15, 5, 40, 24))]
    root = write_cityscapes(tmp_path / "c", {"aachen/a_000000_000019": objects})
    part = {"root": str(root), "set": "train"}
    manifest = prepare(tmp_path, "cityscapes", part, classes=["person"])
    [row] = all_rows(tmp_path / "shards" / "train")
    assert row.area.tolist() == [200.0]
    assert (manifest.counts["objects"], manifest.counts["other_classes"]) == (1, 1)
