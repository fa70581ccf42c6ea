"""Cityscapes objects are the visible parts of their polygons; groups are crowd regions."""

import json

import numpy as np
import pycocotools.mask as coco_masks
import pytest

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.cityscapes import read_cityscapes
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.splits import prepare_split
from tests.annotated_datasets import (
    HEIGHT,
    WIDTH,
    all_rows,
    quarantine_entries,
    rectangle,
    write_cityscapes,
)

FIRST, SECOND = "aachen/aachen_000000_000019", "bochum/bochum_000000_000313"
IMAGES = {
    FIRST: [
        ("road", rectangle(0, 20, 59, 39)),
        ("car", rectangle(10, 10, 29, 24)),
        ("license plate", rectangle(12, 20, 16, 22)),
        ("person", rectangle(20, 5, 24, 30)),
        ("pole", rectangle(26, 0, 27, 39)),
        ("persongroup", rectangle(40, 10, 50, 20)),
    ],
    SECOND: [("sky", rectangle(0, 0, 59, 10)), ("train", rectangle(-5, 30, 70, 50))],
}
NAMES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


def write(root, shards):
    return write_shards(read_cityscapes(str(root), "train"), str(shards), 8, 8)


def rows_by_name(url):
    return {row.file_name: row for row in all_rows(url)}


def masks_of(row):
    return [coco_masks.decode({"size": list(row.size), "counts": c}).astype(bool) for c in row.rle]


def test_a_mask_is_the_visible_part_of_its_polygon(tmp_path):
    root = write_cityscapes(tmp_path / "in", IMAGES)
    manifest = write(root, tmp_path / "s")
    assert [category.name for category in manifest.categories] == NAMES
    assert manifest.protocol == "coco" and not manifest.reasons
    row = rows_by_name(tmp_path / "s")[f"{FIRST}_leftImg8bit.png"]
    path = root / "leftImg8bit/train" / row.file_name
    assert row.image_bytes == path.read_bytes()
    car, person, group = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(3))
    car[10:25, 10:30] = True
    car[5:31, 20:25] = False  # the person is in front
    car[:, 26:28] = False  # the pole is in front
    person[5:31, 20:25] = True
    group[10:21, 40:51] = True
    for mask, expected in zip(masks_of(row), (car, person, group), strict=True):
        assert np.array_equal(mask, expected)
    assert row.labels.tolist() == [3, 1, 1]
    assert row.iscrowd.tolist() == [False, False, True]
    assert row.boxes.tolist() == [[10, 10, 30, 25], [20, 5, 25, 31], [40, 10, 51, 21]]
    assert row.area.tolist() == [car.sum(), person.sum(), group.sum()]


def test_polygons_are_clipped_to_the_image(tmp_path):
    write(write_cityscapes(tmp_path / "in", IMAGES), tmp_path / "s")
    row = rows_by_name(tmp_path / "s")[f"{SECOND}_leftImg8bit.png"]
    assert row.boxes.tolist() == [[0, 30, 60, 40]]
    assert row.labels.tolist() == [6]


def test_every_invalid_record_is_listed_counted_and_left_out(tmp_path):
    far = [[0, 0], [10, 0], [1e9, 10]]
    images = {
        FIRST: [
            ("bus", rectangle(5, 5, 9, 9)),
            ("truck", rectangle(4, 4, 10, 10)),
            ("rider", rectangle(70, 5, 80, 9)),
            ("rider", rectangle(-20, -20, -9, -9)),
            ("dragon", rectangle(30, 5, 35, 9)),
            ("dragongroup", rectangle(30, 5, 35, 9)),
            ("bicycle", [[1, 2], [3, 4]]),
            ("bicycle", [[1, 2], [3, 4], [5]]),
            ("bicycle", [[1, 2], [3, 4], [5, "6"]]),
            ("bicycle", far),
            ("bicycle", [[1, 2], [3, 4], [5, float("nan")]]),
            ("wall", far),
            ("polegroup", rectangle(0, 38, 1, 39)),
            ("caravangroup", rectangle(0, 38, 1, 39)),
        ],
        SECOND: [("car", rectangle(5, 5, 9, 9))],
        "ulm/ulm_1": [("car", rectangle(5, 5, 9, 9))],
        "ulm/ulm_2": [],
        "ulm/ulm_3": [],
        "ulm/ulm_4": [],
    }
    root = write_cityscapes(tmp_path / "in", images)
    (root / "leftImg8bit/train" / f"{SECOND}_leftImg8bit.png").unlink()
    broken = {"2": "{", "3": '{"imgHeight": 4, "imgWidth": 5}', "4": "[" * 100_000}
    for number, text in broken.items():
        (root / f"gtFine/train/ulm/ulm_{number}_gtFine_polygons.json").write_text(text)
    manifest = write(root, tmp_path / "s")
    assert manifest.reasons == {
        "object not visible": 3,
        "unknown category": 2,
        "invalid polygon": 5,
        "missing image file": 1,
        "image quarantined": 1,
        "unreadable annotation file": 3,
    }
    counts = manifest.counts
    assert counts["images_listed"] == 6 == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == 13 == counts["objects"] + 11
    assert counts["annotations_quarantined"] == 11
    entries = quarantine_entries(tmp_path / "s")
    assert {x["file"] for x in entries if x["reason"] == "unreadable annotation file"} == {
        f"ulm/ulm_{number}_gtFine_polygons.json" for number in broken
    }
    [first, _] = [x for x in entries if x["reason"] == "unknown category"]
    assert (first["annotation_id"], first["file"]) == (5, f"{FIRST}_leftImg8bit.png")


def test_a_deleted_object_is_not_counted_and_occludes_nothing(tmp_path):
    root = write_cityscapes(tmp_path / "in", {FIRST: [("car", rectangle(5, 5, 9, 9))] * 2})
    path = root / "gtFine/train" / f"{FIRST}_gtFine_polygons.json"
    document = json.loads(path.read_text())
    document["objects"][1]["deleted"] = 1
    path.write_text(json.dumps(document))
    manifest = write(root, tmp_path / "s")
    assert manifest.counts["annotations_listed"] == manifest.counts["objects"] == 1


def test_a_set_without_annotations_is_an_error(tmp_path):
    root = write_cityscapes(tmp_path / "in", IMAGES, "val")
    with pytest.raises(
        storage.StorageError, match=r"gtFine/train: no files \*_gtFine_polygons\.json"
    ):
        read_cityscapes(str(root), "train")


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_configured_dataset_is_read_from_disk_or_a_bucket(request, tmp_path, location):
    root = write_cityscapes(tmp_path / "in", IMAGES)
    write_cityscapes(root, {"ulm/ulm_1": [("bus", rectangle(5, 5, 9, 9))]}, "val")
    url = str(tmp_path)
    if location == "s3":
        url = request.getfixturevalue("s3")("cityscapes")
        storage.upload_folder(tmp_path, url)
    data = {"source": "cityscapes"}
    data |= {split: {"root": f"{url}/in", "set": split} for split in ("train", "val")}
    config = RunConfig.model_validate({"output": f"{url}/out", "data": data})
    manifests = [prepare_split(config, split) for split in ("train", "val")]
    assert [manifest.rows for manifest in manifests] == [2, 1]
    [row] = rows_by_name(f"{url}/out/shards/val").values()
    assert row.boxes.tolist() == [[5, 5, 10, 10]]
    assert prepare_split(config, "train") == manifests[0]
