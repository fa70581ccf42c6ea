"""A shard holds every valid record; invalid ones are counted and listed with their reasons."""

import math

import numpy as np
import pytest

from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.aspect_bins import aspect_bins
from pipeline.shards.coco_ground_truth import coco_ground_truth
from tests.annotated_datasets import add_invalid_records, all_rows, draw_coco, quarantine_entries


@pytest.fixture
def source(tmp_path):
    return draw_coco(tmp_path / "source")


@pytest.fixture
def keypoint_source(tmp_path):
    return draw_coco(tmp_path / "source", keypoints=True)


def test_rows_hold_the_encoded_image_and_every_object(source, tmp_path):
    manifest = source.write_shards(tmp_path / "shards")
    rows = {row.image_id: row for row in all_rows(tmp_path / "shards")}
    assert len(rows) == manifest.rows == 12
    for image in source.document["images"]:
        row = rows[image["id"]]
        assert row.image_bytes == (source.images / image["file_name"]).read_bytes()
        assert (row.file_name, row.size) == (image["file_name"], (48, 48))
        expected = [a for a in source.document["annotations"] if a["image_id"] == image["id"]]
        assert row.annotation_id.tolist() == [a["id"] for a in expected]
        assert row.labels.tolist() == [a["category_id"] for a in expected]
        for index, annotation in enumerate(expected):
            x, y, width, height = annotation["bbox"]
            assert row.boxes[index].tolist() == [x, y, x + width, y + height]
            [polygon] = row.polygons(index)
            assert polygon.ravel().tolist() == annotation["segmentation"][0]


def test_a_row_group_holds_images_of_similar_aspect_ratio(coco_tiny, tmp_path):
    annotations = coco_tiny / "annotations/instances_val2017.json"
    listing = read_coco(str(annotations), str(coco_tiny / "val2017"))
    manifest = write_shards(listing, str(tmp_path / "shards"), 32, 8)
    for file in manifest.files:
        for group in np.split(aspect_bins(file.sizes), np.cumsum(file.row_groups)[:-1]):
            assert len(set(group.tolist())) == 1


def test_every_invalid_record_is_listed_counted_and_left_out(source, tmp_path):
    reasons = add_invalid_records(source)
    manifest = source.write_shards(tmp_path / "shards")
    counts = manifest.counts
    assert manifest.reasons == reasons
    assert counts["images_listed"] == 14 == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == len(source.document["annotations"])
    assert counts["annotations_listed"] == (
        counts["objects"] + counts["crowd"] + counts["annotations_quarantined"]
    )
    assert (counts["clipped"], counts["crowd"], counts["images_without_objects"]) == (1, 1, 1)

    rows = all_rows(tmp_path / "shards")
    assert len(rows) == counts["images"] == 9
    assert sum(int((~row.iscrowd).sum()) for row in rows) == counts["objects"]
    assert sum(int(row.iscrowd.sum()) for row in rows) == 1
    assert [len(row.labels) for row in rows if row.image_id == 5] == [0]

    entries = quarantine_entries(tmp_path / "shards")
    left_out = [entry for entry in entries if not entry["corrected"]]
    assert len(left_out) == counts["images_quarantined"] + counts["annotations_quarantined"]
    [clipped] = [entry for entry in entries if entry["corrected"]]
    assert (clipped["annotation_id"], clipped["image_id"]) == (1001, 6)
    [missing] = [entry for entry in entries if entry["reason"] == "missing image file"]
    assert missing["file"] == "000002.jpg"
    summary = manifest.summary()
    assert "unknown category (1)" in summary and "1 boxes clipped" in summary


def test_invalid_keypoints_are_listed_counted_and_left_out(keypoint_source, tmp_path):
    first, second, third = keypoint_source.document["annotations"][:3]
    first["keypoints"] = first["keypoints"][:-1]
    second["keypoints"][3] = math.nan
    third["keypoints"][0:3] = [70, 10, 2]
    third["keypoints"][9:12] = [10, -8, 1]
    manifest = keypoint_source.write_shards(tmp_path / "shards")
    assert manifest.reasons == {"invalid keypoints": 1, "non-finite coordinates": 1}
    assert manifest.counts["annotations_quarantined"] == 2
    assert manifest.counts["points_outside"] == 2
    assert "2 keypoints outside their image left out" in manifest.summary()
    entries = {entry["annotation_id"]: entry for entry in quarantine_entries(tmp_path / "shards")}
    assert set(entries) == {first["id"], second["id"], third["id"]}
    assert [entries[a["id"]]["corrected"] for a in (first, second, third)] == [False, False, True]
    [row] = [row for row in all_rows(tmp_path / "shards") if third["id"] in row.annotation_id]
    points = row.keypoints[row.annotation_id.tolist().index(third["id"])]
    assert points[[0, 3]].tolist() == [[0, 0, 0]] * 2
    assert (points[[1, 2], 2] > 0).all()


@pytest.mark.parametrize("names", ["missing", "different"])
def test_keypoints_without_one_list_of_names_are_left_out_and_counted(
    keypoint_source, tmp_path, names
):
    for category in keypoint_source.document["categories"]:
        if names == "missing":
            del category["keypoints"]
        elif category["id"] == 2:
            category |= {"keypoints": ["front", "back"], "skeleton": []}
    url = str(tmp_path / "shards")
    manifest = keypoint_source.write_shards(url)
    assert manifest.keypoints is None and manifest.reasons == {}
    assert manifest.counts["keypoints_unnamed"] == manifest.counts["objects"] > 0
    assert f"keypoints of {manifest.counts['objects']} annotations left out" in manifest.summary()
    assert all(entry["corrected"] for entry in quarantine_entries(url))
    assert {row.keypoints for row in all_rows(url)} == {None}
    ground_truth = coco_ground_truth(url)
    records = ground_truth["annotations"] + ground_truth["categories"]
    assert not any("keypoints" in record for record in records)
