"""Keypoints from COCO's JSON into shards and back: kept as they were, or named and counted."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from model.structures import ImageSize
from pipeline import storage
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.validate import AnnotationError, validate_annotation
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.keypoints import KeypointSet, combine_keypoints
from pipeline.shards.manifest import read_manifest, write_manifest
from pipeline.shards.row import read_rows, rows_from_arrow
from pipeline.shards.shard_file import SCHEMA, read_row_group
from pipeline.storage import StorageError

SIZE = ImageSize(40, 60)


def judged(keypoints, count=2):
    annotation = {"id": 1, "category_id": 9, "bbox": [10, 10, 20, 15], "keypoints": keypoints}
    return validate_annotation(annotation, SIZE, {9: 1}, count)


visibilities = st.sampled_from([0, 1, 2])
points = st.tuples(st.floats(-20, 90), st.floats(-20, 70), visibilities)


@given(st.lists(points, min_size=1, max_size=6))
def test_labelled_points_in_the_image_move_to_pixel_centres_and_others_become_zero(given_points):
    record = judged([number for point in given_points for number in point], len(given_points))
    kept = np.array(record.keypoints).reshape(-1, 3)
    outside = 0
    for (x, y, visibility), point in zip(given_points, kept.tolist(), strict=True):
        inside = -0.5 <= x <= 60 and -0.5 <= y <= 40
        outside += visibility > 0 and not inside
        labelled = visibility > 0 and inside
        assert point == ([x + 0.5, y + 0.5, visibility] if labelled else [0, 0, 0])
    assert record.points_outside == outside
    assert record.labelled_points == (kept[:, 2] > 0).sum()


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_an_object_without_keypoints_has_none_labelled(nothing):
    assert judged(nothing).keypoints == (0.0,) * 6


def test_keypoints_that_nothing_names_are_left_out():
    assert judged([1, 2, 2], count=0).keypoints == ()


@pytest.mark.parametrize(
    ("keypoints", "reason"),
    [
        ([1, 2, 2], "bad keypoints"),
        ([1, 2, 2, 3, 4], "bad keypoints"),
        ([1, 2, 2, 3, 4, 3], "bad keypoints"),
        ([1, 2, 2, 3, 4, -1], "bad keypoints"),
        ([1, 2, 2, 3, 4, 0.5], "bad keypoints"),
        ([[1, 2, 2], [3, 4, 1]], "bad keypoints"),
        (["a", 2, 2, 3, 4, 1], "bad keypoints"),
        ({"nose": [1, 2]}, "bad keypoints"),
        (7, "bad keypoints"),
        ([1, 2, 2, math.nan, 4, 1], "non-finite coordinates"),
        ([1, 2, 2, 3, math.inf, 1], "non-finite coordinates"),
        ([1, 2, math.nan, 3, 4, 1], "non-finite coordinates"),
    ],
)
def test_garbage_is_refused_with_its_reason(keypoints, reason):
    with pytest.raises(AnnotationError) as caught:
        judged(keypoints)
    assert caught.value.reason == reason


@pytest.fixture
def source(tmp_path):
    """A COCO data set of 12 images with keypoints, to be spoilt: its document and folders."""
    drawn = draw_shapes_dataset(tmp_path / "source", 12, 48, 3, seed=3, keypoints=True)
    return json.loads(drawn[0].read_text()), *drawn


def write(source, folder):
    document, annotations, images = source
    annotations.write_text(json.dumps(document))
    return write_shards(read_coco(str(annotations), str(images)), str(folder), 5, 2)


def rows_of(url):
    return [row for file in read_manifest(url).files for row in read_rows(url, file.name)]


def quarantine_of(url):
    lines = storage.read_bytes(storage.join(url, "quarantine.jsonl")).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_the_ground_truth_has_the_keypoints_of_the_annotation_file(source, tmp_path):
    document, _, _ = source
    document["annotations"][0] |= {"keypoints": [0] * 12, "num_keypoints": 0}
    del document["annotations"][1]["keypoints"]  # as if none were labelled
    url = str(tmp_path / "shards")
    manifest = write(source, url)
    rebuilt = coco_ground_truth(url)
    assert rebuilt["categories"] == document["categories"]
    assert len(rebuilt["annotations"]) == len(document["annotations"]) > 12
    wanted = {(a["image_id"], a["area"]): a for a in document["annotations"]}
    assert len(wanted) == len(document["annotations"])
    empty = 0
    for annotation in rebuilt["annotations"]:
        original = wanted[annotation["image_id"], annotation["area"]]
        given = original.get("keypoints", [0] * 12)
        assert annotation["keypoints"] == pytest.approx(given, abs=1e-9)
        assert annotation["num_keypoints"] == sum(v > 0 for v in given[2::3])
        empty += annotation["num_keypoints"] == 0
    assert empty == 2
    assert manifest.counts["with_keypoints"] == len(wanted) - 2
    per_image = [points for file in manifest.files for points in file.labelled_points]
    assert per_image == [int((row.keypoints[..., 2] > 0).sum()) for row in rows_of(url)]
    coco = COCO()
    coco.dataset = rebuilt
    coco.createIndex()
    assert len(coco.getAnnIds()) == len(wanted)


def test_the_manifest_remembers_names_skeleton_and_who_has_them(source, tmp_path):
    document, _, _ = source
    for category in document["categories"][2:]:
        del category["keypoints"], category["skeleton"]
    document["categories"][1]["skeleton"] = [[1, 2], [4, 3]]
    manifest = write(source, tmp_path / "shards")
    links = ((0, 1), (0, 2), (3, 1), (3, 2))
    names = ("top", "left_side", "right_side", "bottom")
    assert manifest.keypoints == KeypointSet(names, links, (1, 2))
    assert read_manifest(str(tmp_path / "shards")) == manifest
    other = replace(manifest, keypoints=replace(manifest.keypoints, names=names[::-1]))
    assert other.digest != manifest.digest
    assert "objects with some of 4 keypoints" in manifest.summary()


def test_bad_keypoints_are_named_counted_and_left_out(source, tmp_path):
    document, _, _ = source
    first, second, third = document["annotations"][:3]
    first["keypoints"] = first["keypoints"][:-1]
    second["keypoints"][3] = math.nan
    third["keypoints"][0:3] = [70, 10, 2]
    third["keypoints"][9:12] = [10, -8, 1]
    url = str(tmp_path / "shards")
    manifest = write(source, url)
    assert manifest.reasons == {"bad keypoints": 1, "non-finite coordinates": 1}
    assert manifest.counts["annotations_quarantined"] == 2
    assert manifest.counts["points_outside"] == 2
    assert "2 keypoints outside their image left out" in manifest.summary()
    named = {line["annotation_id"]: line for line in quarantine_of(url)}
    assert set(named) == {first["id"], second["id"], third["id"]}
    assert [named[a["id"]]["mended"] for a in (first, second, third)] == [False, False, True]
    [row] = [row for row in rows_of(url) if third["id"] in row.annotation_id]
    points = row.keypoints[row.annotation_id.tolist().index(third["id"])]
    assert points[[0, 3]].tolist() == [[0, 0, 0]] * 2
    assert (points[[1, 2], 2] > 0).all()


@pytest.mark.parametrize("why", ["no names", "differing names"])
def test_keypoints_without_one_list_of_names_are_left_out_and_counted(source, tmp_path, why):
    document, _, _ = source
    for category in document["categories"]:
        if why == "no names":
            del category["keypoints"]
        elif category["id"] == 2:
            category |= {"keypoints": ["front", "back"], "skeleton": []}
    url = str(tmp_path / "shards")
    manifest = write(source, url)
    assert manifest.keypoints is None and manifest.reasons == {}
    assert manifest.counts["keypoints_unnamed"] == manifest.counts["objects"] > 0
    assert f"keypoints of {manifest.counts['objects']} annotations left out" in manifest.summary()
    assert all(line["mended"] for line in quarantine_of(url))
    assert {row.keypoints for row in rows_of(url)} == {None}
    truth = coco_ground_truth(url)
    assert not any("keypoints" in record for record in truth["annotations"] + truth["categories"])


def test_parts_of_a_split_share_the_keypoints_of_those_that_have_them():
    first = KeypointSet(("a", "b"), ((0, 1),), (1,))
    second = KeypointSet(("a", "b"), ((0, 1), (1, 0)), (2, 1))
    assert combine_keypoints([first, None]) == first
    assert combine_keypoints([first, second]) == KeypointSet(("a", "b"), second.skeleton, (1, 2))
    assert combine_keypoints([None, None]) is None
    assert combine_keypoints([first, replace(second, names=("b", "a"))]) is None


@pytest.mark.parametrize(
    "spoilt",
    [
        {"skeleton": [[0, 1]]},
        {"skeleton": [[1, 5]]},
        {"skeleton": [1, 2]},
        {"keypoints": ["a", "b", "c", "a"]},
    ],
)
def test_categories_with_impossible_keypoints_are_refused(source, tmp_path, spoilt):
    for category in source[0]["categories"]:
        category |= spoilt
    with pytest.raises(StorageError, match=r"skeleton must be pairs|names must differ"):
        write(source, tmp_path / "shards")


def test_a_row_without_objects_has_no_keypoints_and_is_read(source, tmp_path):
    document, _, _ = source
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 5]
    write(source, tmp_path / "shards")
    [row] = [row for row in rows_of(str(tmp_path / "shards")) if row.image_id == 5]
    assert len(row.keypoints) == 0


def source_digest_of_version_1(annotations, images, *layout):
    """As programs of that version wrote it: of the annotations, and of the images' sizes."""
    names = [image["file_name"] for image in json.loads(annotations.read_text())["images"]]
    listed = sorted([name, (images / name).stat().st_size] for name in names)
    rest = json.dumps([[1, 20170322, *layout], listed]).encode()
    return hashlib.sha256(annotations.read_bytes() + rest).hexdigest()


@pytest.fixture
def old_shards(shapes_images, tmp_path):
    """Shards as schema version 1 had them: without the column and without its fields."""
    url = str(tmp_path / "old")
    annotations, images = shapes_images
    manifest = write_shards(read_coco(str(annotations), str(images)), url, 4, 2)
    files = []
    for file in manifest.files:
        path = Path(url) / file.name
        shard = pq.ParquetFile(path)
        groups = [shard.read_row_group(n) for n in range(shard.num_row_groups)]
        with pq.ParquetWriter(path, SCHEMA.remove(SCHEMA.get_field_index("keypoints"))) as writer:
            for group in groups:
                writer.write_table(group.drop_columns("keypoints"))
        files.append(replace(file, sha256=f"old {file.name}"))
    counts = {k: v for k, v in manifest.counts.items() if "keypoints" not in k and "point" not in k}
    old = {"version": 1, "files": tuple(files), "counts": counts}
    old["source_digest"] = source_digest_of_version_1(annotations, images, 4, 2)
    write_manifest(url, replace(manifest, **old))
    document = json.loads((Path(url) / "manifest.json").read_text())
    del document["keypoints"]
    for file in document["files"]:
        del file["labelled_points"]
    (Path(url) / "manifest.json").write_text(json.dumps(document))
    return url


def test_shards_of_version_1_are_read(old_shards, shapes_shards):
    manifest = read_manifest(old_shards)
    assert (manifest.version, manifest.keypoints) == (1, None)
    assert "11 images" in manifest.summary()
    assert coco_ground_truth(old_shards)["images"] == coco_ground_truth(shapes_shards)["images"]
    rows = rows_of(old_shards)
    assert {row.keypoints for row in rows} == {None}
    group = rows_from_arrow(read_row_group(old_shards, manifest.files[0].name, 1))
    assert [row.image_id for row in group] == [row.image_id for row in rows[2:4]]
    assert group[0].boxes.tolist() == rows[2].boxes.tolist()


def test_standing_shards_of_version_1_are_not_written_again(old_shards, shapes_images):
    annotations, images = shapes_images
    standing = read_manifest(old_shards)
    assert write_shards(read_coco(str(annotations), str(images)), old_shards, 4, 2) == standing


def test_a_later_version_is_refused(old_shards):
    write_manifest(old_shards, replace(read_manifest(old_shards), version=3))
    with pytest.raises(StorageError, match="schema version 3, this program reads 1 and 2"):
        read_manifest(old_shards)
