"""New shards from existing ones hold the same images and objects, whatever their layout."""

import itertools
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.merge import merge_shards
from pipeline.ingest.splits import prepare_split
from pipeline.shards.aspect_bins import aspect_bins
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.manifest import read_manifest
from tests.annotated_datasets import (
    CROWD,
    add_invalid_records,
    all_rows,
    draw_coco,
    quarantine_entries,
)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """12 images, some invalid, with a crowd region and an object with run lengths."""
    folder = tmp_path_factory.mktemp("first")
    source = draw_coco(folder / "source")
    add_invalid_records(source)
    runs = next(a for a in source.document["annotations"] if a["image_id"] == 8)
    runs |= {"segmentation": CROWD, "bbox": [20, 0, 12, 48]}
    source.write_shards(folder / "shards")
    return str(folder / "shards")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """12 images with the same ids as the first, keypoints, and other ids and orders of classes."""
    folder = tmp_path_factory.mktemp("second")
    source = draw_coco(folder / "source", keypoints=True)
    renumber = {1: 30, 2: 10, 3: 2, 4: 40, 5: 5}
    for category in source.document["categories"]:
        category["id"] = renumber[category["id"]]
        category["name"] = {"star": "comet"}.get(category["name"], category["name"].title())
    for annotation in source.document["annotations"]:
        annotation["category_id"] = renumber[annotation["category_id"]]
    # An image of another aspect ratio would need another file; a marker makes the images differ.
    for path in source.images.iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    source.write_shards(folder / "shards")
    return str(folder / "shards")


def plain(row, *without):
    """Return the fields of a row in comparable form."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
        if name not in without
    }


@pytest.mark.parametrize("layout", [(1, 1), (4, 3), (7, 2), (100, 100)])
def test_another_layout_keeps_every_row_as_it_is_and_in_order(first, tmp_path, layout):
    manifest = merge_shards([first], str(tmp_path), *layout)
    before = read_manifest(first)
    rows, expected = all_rows(tmp_path), all_rows(first)
    # Images of equal size, so of one bin: their order is kept.
    assert [plain(row) for row in rows] == [plain(row) for row in expected]
    assert [file.rows for file in manifest.files[:-1]] == [layout[0]] * (len(manifest.files) - 1)
    assert max(max(file.row_groups) for file in manifest.files) <= layout[1]
    assert manifest.counts == before.counts
    assert (manifest.reasons, manifest.corrected) == (before.reasons, before.corrected)
    assert quarantine_entries(tmp_path) == quarantine_entries(first)
    assert sum((file.classes for file in manifest.files), ()) == sum(
        (file.classes for file in before.files), ()
    )


def test_row_groups_hold_one_aspect_bin(tmp_path, coco_tiny):
    listing = {
        "annotations": str(coco_tiny / "annotations/instances_train2017.json"),
        "images": str(coco_tiny / "train2017"),
    }
    data = {"source": "coco", "train": listing, "val": listing, "rows_per_shard": 30}
    config = RunConfig.model_validate({"output": str(tmp_path), "data": data})
    prepare_split(config, "train")
    url = str(tmp_path / "shards" / "train")
    manifest = merge_shards([url], str(tmp_path / "new"), 50, 4)
    for file in manifest.files:
        bounds = np.cumsum([0, *file.row_groups])
        bins = aspect_bins(file.sizes)
        for begin, end in itertools.pairwise(bounds):
            assert len(set(bins[begin:end].tolist())) == 1
    by_id = {row.image_id: plain(row) for row in all_rows(url)}
    assert {row.image_id: plain(row) for row in all_rows(tmp_path / "new")} == by_id
    for row in all_rows(tmp_path / "new"):
        assert row.decode().shape[:2] == row.size


def objects_of(url):
    """Return (class name in lower case, box) of all objects, sorted."""
    ground_truth = coco_ground_truth(str(url))
    names = {category["id"]: category["name"].lower() for category in ground_truth["categories"]}
    return sorted(
        (names[each["category_id"]], each["bbox"], each["iscrowd"], each["area"])
        for each in ground_truth["annotations"]
    )


def test_merged_datasets_match_classes_by_name_and_keep_all_objects(
    first, second, tmp_path, caplog
):
    manifest = merge_shards([first, second], str(tmp_path), 8, 4)
    own = read_manifest(first).categories
    assert manifest.categories[:-1] == own
    assert manifest.categories[-1].name == "comet"
    assert objects_of(tmp_path) == sorted(objects_of(first) + objects_of(second))
    counts = [read_manifest(url).counts for url in (first, second)]
    for key, value in manifest.counts.items():
        if key != "with_keypoints":
            assert value == sum(each.get(key, 0) for each in counts), key
    # Of objects that are kept as they are, and of a dataset that has no keypoints.
    assert manifest.counts["with_keypoints"] == counts[1]["with_keypoints"] > 0
    assert len({category.id for category in manifest.categories}) == 6
    for url, other in ((first, "comet"), (second, "star")):
        assert f"{url} has no annotations of the classes {other}" in caplog.text


def test_image_ids_are_unique_and_those_of_the_datasets_are_kept(first, second, tmp_path):
    merge_shards([first, second], str(tmp_path), 8, 4)
    rows = all_rows(tmp_path)
    before = [*all_rows(first), *all_rows(second)]
    assert len({row.image_id for row in rows}) == len(rows) == len(before)
    firsts = [row.image_id for row in all_rows(first)]
    assert [row.image_id for row in rows[: len(firsts)]] == firsts
    for row, own in zip(rows, before, strict=True):
        assert row.image_bytes == own.image_bytes
        if row.image_id != own.image_id:
            assert json.loads(row.source_image_id) == own.image_id
        else:
            assert row.source_image_id == own.source_image_id
    assert any(row.source_image_id for row in rows)


def test_an_id_that_was_changed_before_stays_the_source_id(first, second, tmp_path):
    merge_shards([first, second], str(tmp_path / "once"), 8, 4)
    once = all_rows(tmp_path / "once")
    source = draw_coco(tmp_path / "third")
    for path in source.images.iterdir():
        path.write_bytes(path.read_bytes() + b"\0\0")
    taken = next(row for row in once if row.source_image_id is not None)
    for record in source.document["images"]:
        if record["id"] == 1:
            record["id"] = taken.image_id
    source.document["annotations"] = [
        a for a in source.document["annotations"] if a["image_id"] != 1
    ]
    source.write_shards(tmp_path / "t")
    merge_shards([str(tmp_path / "t"), str(tmp_path / "once")], str(tmp_path / "twice"), 8, 4)
    [again] = [
        row
        for row in all_rows(tmp_path / "twice")
        if row.image_bytes == taken.image_bytes and row.file_name == taken.file_name
    ]
    assert again.image_id != taken.image_id
    assert again.source_image_id == taken.source_image_id


def test_keypoints_of_one_dataset_are_unlabeled_in_the_other(first, second, tmp_path):
    manifest = merge_shards([first, second], str(tmp_path), 30, 4)
    assert manifest.keypoints.names == ("top", "left_side", "right_side", "bottom")
    by_id = {category.id: category.name for category in manifest.categories}
    assert {by_id[i] for i in manifest.keypoints.category_ids} == {
        name for name in by_id.values() if name != "star"
    }
    rows = all_rows(tmp_path)
    own = all_rows(second)
    count = len(rows) - len(own)
    for row in rows[:count]:
        assert not len(row.labels) or (
            row.keypoints.shape[1:] == (4, 3) and not row.keypoints.any()
        )
    for row, before in zip(rows[count:], own, strict=True):
        assert row.keypoints.tolist() == before.keypoints.tolist()
    [file] = manifest.files
    assert file.labelled_points[:count] == (0,) * count
    assert sum(file.labelled_points[count:]) > 0


def test_selected_classes_leave_the_other_objects_out(first, second, tmp_path):
    manifest = merge_shards([first, second], str(tmp_path), 30, 4, ["comet", "square"])
    assert [category.name for category in manifest.categories] == ["comet", "square"]
    kept = [each for each in objects_of(first) + objects_of(second)]
    expected = sorted(each for each in kept if each[0] in ("comet", "square"))
    assert objects_of(tmp_path) == expected
    counts = manifest.counts
    assert counts["other_classes"] == len(kept) - len(expected)
    assert counts["annotations_listed"] == (
        counts["objects"]
        + counts["crowd"]
        + counts["annotations_quarantined"]
        + counts["other_classes"]
    )
    assert counts["images_without_objects"] > read_manifest(first).counts["images_without_objects"]
    with pytest.raises(ConfigError, match=r"'commet' is not a class of .* mean 'comet'"):
        merge_shards([first, second], str(tmp_path), 30, 4, ["commet"])


def test_a_second_call_writes_nothing_and_a_changed_source_all(first, second, tmp_path):
    out = tmp_path / "new"
    manifest = merge_shards([first], str(out), 8, 4)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert merge_shards([first], str(out), 8, 4) == manifest
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    merged = merge_shards([first, second], str(out), 8, 4)
    assert merged.rows > manifest.rows
    assert read_manifest(str(out)) == merged
    assert merge_shards([first], str(out), 8, 4).digest == manifest.digest
    assert len(list(out.glob("*.parquet"))) == len(manifest.files)


def test_a_folder_twice_or_as_output_is_refused_before_anything_is_written(first, second, tmp_path):
    storage.upload_folder(Path(first), str(tmp_path / "copy"))
    for urls in ([first, first], [first, str(tmp_path / "copy")], [first, first + "/"]):
        with pytest.raises(storage.StorageError, match="hold the same images"):
            merge_shards(urls, str(tmp_path / "new"), 8, 4)
    before = read_manifest(first)
    with pytest.raises(storage.StorageError, match="to be read and written"):
        merge_shards([first, second], first + "/", 8, 4)
    assert read_manifest(first) == before
    assert not (tmp_path / "new").exists()
    with pytest.raises(storage.MissingFileError, match="nowhere"):
        merge_shards([first, str(tmp_path / "nowhere")], str(tmp_path / "new"), 8, 4)


def test_a_damaged_source_is_named_and_the_new_folder_has_no_manifest(second, tmp_path):
    storage.upload_folder(Path(second), str(tmp_path / "copy"))
    name = read_manifest(second).files[1].name
    (tmp_path / "copy" / name).write_bytes(b"no parquet")
    with pytest.raises(storage.StorageError, match=f"copy/{name}: cannot be read"):
        merge_shards([str(tmp_path / "copy")], str(tmp_path / "new"), 8, 4)
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_the_configuration_merges_shards_of_a_split(first, second, tmp_path):
    data = {
        "source": "shards",
        "train": [{"shards": first}, {"shards": second}],
        "val_shards": second,
        "rows_per_shard": 10,
        "rows_per_group": 5,
    }
    config = RunConfig.model_validate({"output": str(tmp_path), "data": data})
    manifest = prepare_split(config, "train")
    assert manifest.rows == read_manifest(first).rows + 12
    assert prepare_split(config, "val") == read_manifest(second)


@pytest.mark.ray
@pytest.mark.s3
def test_ray_tasks_merge_shards_in_a_bucket(ray_cluster, s3, first, second, tmp_path):
    bucket = s3("merge")
    for name, url in (("a", first), ("b", second)):
        storage.upload_folder(Path(url), storage.join(bucket, name))
    urls = [storage.join(bucket, name) for name in "ab"]
    remote = merge_shards(urls, storage.join(bucket, "new"), 8, 4)
    local = merge_shards([first, second], str(tmp_path), 8, 4)
    assert replace(remote, source_digest="") == replace(local, source_digest="")
