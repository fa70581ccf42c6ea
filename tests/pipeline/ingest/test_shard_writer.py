"""Laws of the shards: every record is in them or named, and they stand until sources change."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from model.structures import Category
from pipeline import storage
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage import StorageError, join


@pytest.fixture
def source(tmp_path):
    """A COCO data set of 12 images on disk, to be spoilt: its document and folders."""
    annotations, images = draw_shapes_dataset(tmp_path / "source", 12, 48, 3, seed=3)
    return json.loads(annotations.read_text()), annotations, images


def write(source, folder, **sizes):
    document, annotations, images = source
    annotations.write_text(json.dumps(document))
    sizes = {"rows_per_shard": 5, "rows_per_group": 2} | sizes
    return write_shards(read_coco(str(annotations), str(images)), str(folder), **sizes)


def rows_of(url):
    return [row for file in read_manifest(url).files for row in read_rows(url, file.name)]


def quarantine_of(url):
    lines = storage.read_bytes(join(str(url), "quarantine.jsonl")).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_rows_hold_the_images_bytes_and_every_object(source, tmp_path):
    document, _, images = source
    manifest = write(source, tmp_path / "shards")
    rows = {row.image_id: row for row in rows_of(str(tmp_path / "shards"))}
    assert len(rows) == manifest.rows == 12
    for image in document["images"]:
        row = rows[image["id"]]
        assert row.image_bytes == (images / image["file_name"]).read_bytes()
        assert (row.file_name, row.size) == (image["file_name"], (48, 48))
        wanted = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        assert row.annotation_id.tolist() == [a["id"] for a in wanted]
        assert row.labels.tolist() == [a["category_id"] for a in wanted]
        for index, annotation in enumerate(wanted):
            x, y, width, height = annotation["bbox"]
            assert row.boxes[index].tolist() == [x, y, x + width, y + height]
            [polygon] = row.polygons(index)
            assert polygon.ravel().tolist() == annotation["segmentation"][0]


def test_the_manifest_describes_the_files(source, tmp_path):
    url = str(tmp_path / "shards")
    manifest = write(source, url)
    assert read_manifest(url) == manifest
    assert manifest.categories[2] == Category(3, "triangle")
    for file in manifest.files:
        assert file.sha256 == hashlib.sha256(Path(url, file.name).read_bytes()).hexdigest()
        assert sum(file.row_groups) == file.rows == len(file.sizes) <= 5
        assert max(file.row_groups) <= 2
    assert sorted(path.name for path in Path(url).iterdir()) == sorted(
        ["manifest.json", "quarantine.jsonl", *(file.name for file in manifest.files)]
    )


def test_a_row_group_holds_one_orientation(coco_tiny, tmp_path):
    url = str(tmp_path / "shards")
    annotations = coco_tiny / "annotations/instances_val2017.json"
    listing = read_coco(str(annotations), str(coco_tiny / "val2017"))
    manifest = write_shards(listing, url, 32, 8)
    for file in manifest.files:
        uprights = np.array([height > width for height, width in file.sizes])
        for group in np.split(uprights, np.cumsum(file.row_groups)[:-1]):
            assert group.all() or not group.any()


def spoil(document, images):
    """One record of every kind that can be bad; returns the reasons to expect."""
    first, second, third, fourth = document["images"][:4]
    of = {i: [a for a in document["annotations"] if a["image_id"] == i] for i in range(1, 13)}
    path = images / first["file_name"]
    path.write_bytes(path.read_bytes()[:-300])
    (images / second["file_name"]).unlink()
    third["width"] = 50
    document["images"].append({**fourth, "file_name": "again.jpg"})
    document["images"].append({"id": 99, "file_name": "x.jpg"})
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 5]
    good = of[6][0]
    number = 1000

    def add(**changes):
        nonlocal number
        number += 1
        document["annotations"].append(good | {"id": number} | changes)

    add(bbox=[-5, 10, 20, 20])
    add(bbox=[60, 10, 5, 5])
    add(bbox=[3, 3, 0, 9])
    add(category_id=77)
    add(image_id=12345)
    add(id=of[4][0]["id"])
    add(bbox=[1, float("nan"), 4, 4])
    add(segmentation=[[1, 2]])
    add(segmentation={"size": [48, 48], "counts": [1000, 500, 804]}, iscrowd=1)
    add(id=None)
    return {
        "truncated or unreadable image": 1,
        "missing image file": 1,
        "image size differs from its annotations": 1,
        "its image is quarantined": len(of[1]) + len(of[2]) + len(of[3]),
        "duplicate image id": 1,
        "malformed image record": 1,
        "box outside its image": 1,
        "degenerate box": 1,
        "unknown category": 1,
        "annotation of an unlisted image": 1,
        "duplicate annotation id": 1,
        "non-finite coordinates": 1,
        "bad outline": 1,
        "malformed annotation": 1,
    }


def test_every_bad_record_is_named_counted_and_left_out(source, tmp_path):
    document, _, images = source
    reasons = spoil(document, images)
    url = str(tmp_path / "shards")
    manifest = write(source, url)
    counts = manifest.counts
    assert manifest.reasons == reasons
    assert counts["images_listed"] == 14 == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == len(document["annotations"])
    assert counts["annotations_listed"] == (
        counts["objects"] + counts["crowd"] + counts["annotations_quarantined"]
    )
    assert (counts["clipped"], counts["crowd"], counts["images_without_objects"]) == (1, 1, 1)

    rows = rows_of(url)
    assert len(rows) == counts["images"] == 9
    assert sum(int((~row.iscrowd).sum()) for row in rows) == counts["objects"]
    assert sum(int(row.iscrowd.sum()) for row in rows) == 1
    assert [len(row.labels) for row in rows if row.image_id == 5] == [0]

    named = quarantine_of(url)
    dropped = [line for line in named if not line["mended"]]
    assert len(dropped) == counts["images_quarantined"] + counts["annotations_quarantined"]
    [clipped] = [line for line in named if line["mended"]]
    assert (clipped["annotation_id"], clipped["image_id"]) == (1001, 6)
    [missing] = [line for line in named if line["reason"] == "missing image file"]
    assert missing["file"] == "000002.jpg"
    summary = manifest.summary()
    assert "1 unknown category" in summary and "1 boxes clipped" in summary


def test_a_second_call_reads_nothing_and_returns_the_standing_manifest(source, tmp_path):
    url = str(tmp_path / "shards")
    manifest = write(source, url)
    before = {path: path.stat().st_mtime_ns for path in Path(url).iterdir()}
    assert write(source, url) == manifest
    assert {path: path.stat().st_mtime_ns for path in Path(url).iterdir()} == before


@pytest.mark.parametrize("change", ["annotation", "image", "layout", "shard lost"])
def test_changed_sources_are_written_anew(source, tmp_path, change):
    document, _, images = source
    url = str(tmp_path / "shards")
    first = write(source, url)
    sizes = {}
    if change == "annotation":
        document["annotations"][0]["area"] += 1
    elif change == "image":
        (images / "000001.jpg").write_bytes((images / "000001.jpg").read_bytes() + b"\0")
    elif change == "layout":
        sizes = {"rows_per_shard": 12}
    else:
        (Path(url) / first.files[0].name).unlink()
    second = write(source, url, **sizes)
    assert (second.digest == first.digest) == (change == "shard lost")
    assert len(rows_of(url)) == 12
    shards = [path.name for path in Path(url).glob("*.parquet")]
    assert sorted(shards) == [file.name for file in second.files]


def test_the_same_sources_give_the_same_digest_in_another_place(source, tmp_path):
    assert write(source, tmp_path / "a").digest == write(source, tmp_path / "b").digest


def test_the_ground_truth_is_what_the_annotation_file_said(coco_tiny, tmp_path):
    path = coco_tiny / "annotations/instances_val2017.json"
    write_shards(read_coco(str(path), str(coco_tiny / "val2017")), str(tmp_path / "s"), 50, 8)
    rebuilt = coco_ground_truth(str(tmp_path / "s"))
    original = json.loads(path.read_text())
    assert len(rebuilt["images"]) == 80
    assert [c["name"] for c in rebuilt["categories"]] == [c["name"] for c in original["categories"]]
    ours, theirs = index(rebuilt), index(original)

    def by_object(coco):
        objects = {
            (a["image_id"], a["category_id"], a["area"], a["iscrowd"]): a
            for a in coco.dataset["annotations"]
        }
        assert len(objects) == len(coco.dataset["annotations"])
        return objects

    mine, wanted = by_object(ours), by_object(theirs)
    assert set(mine) == set(wanted)
    for key, annotation in mine.items():
        assert annotation["bbox"] == pytest.approx(wanted[key]["bbox"], abs=1e-9)
        assert np.array_equal(ours.annToMask(annotation), theirs.annToMask(wanted[key]))


def index(document):
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def test_no_good_image_at_all_is_an_error(source, tmp_path):
    _, _, images = source
    for path in images.iterdir():
        path.unlink()
    with pytest.raises(StorageError, match="none of 12 images"):
        write(source, tmp_path / "shards")


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_a_file_that_is_no_coco_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StorageError, match=r"a\.json: not a COCO instances file"):
        read_coco(str(tmp_path / "a.json"), str(tmp_path))


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(StorageError, match=r"manifest\.json: not a manifest"):
        read_manifest(str(tmp_path))


@pytest.mark.s3
@pytest.mark.ray
def test_ray_tasks_write_the_same_shards_to_a_bucket(ray_cluster, s3, source, tmp_path):
    document, _, images = source
    spoil(document, images)
    bucket = s3("shards")
    storage.upload_folder(images, join(bucket, "images"))
    storage.write_json(join(bucket, "a.json"), document)
    listing = read_coco(join(bucket, "a.json"), join(bucket, "images"))
    there = write_shards(listing, join(bucket, "s"), 5, 2)
    assert write_shards(listing, join(bucket, "s"), 5, 2) == read_manifest(join(bucket, "s"))
    assert len(rows_of(join(bucket, "s"))) == there.rows == 9
    local = write(source, tmp_path / "local")
    assert (there.digest, there.counts) == (local.digest, local.counts)
