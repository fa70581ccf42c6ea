"""Ground truth rebuilt from shards equals the annotation file they were written from."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.coco_ground_truth import coco_ground_truth
from tests.annotated_datasets import all_rows, draw_coco


def index(document):
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def annotations_by_object(coco):
    objects = {
        (a["image_id"], a["category_id"], a["area"], a["iscrowd"]): a
        for a in coco.dataset["annotations"]
    }
    assert len(objects) == len(coco.dataset["annotations"])
    return objects


def test_boxes_and_masks_of_real_annotations_round_trip(coco_tiny, tmp_path):
    path = coco_tiny / "annotations/instances_val2017.json"
    listing = read_coco(str(path), str(coco_tiny / "val2017"))
    write_shards(listing, str(tmp_path / "s"), 50, 8)
    rebuilt = coco_ground_truth(str(tmp_path / "s"))
    original = json.loads(path.read_text())
    assert len(rebuilt["images"]) == 80
    assert [c["name"] for c in rebuilt["categories"]] == [c["name"] for c in original["categories"]]
    ours, theirs = index(rebuilt), index(original)
    actual, expected = annotations_by_object(ours), annotations_by_object(theirs)
    assert set(actual) == set(expected)
    for key, annotation in actual.items():
        assert annotation["bbox"] == pytest.approx(expected[key]["bbox"], abs=1e-9)
        assert np.array_equal(ours.annToMask(annotation), theirs.annToMask(expected[key]))


def test_keypoints_round_trip(tmp_path):
    source = draw_coco(tmp_path / "source", keypoints=True)
    document = source.document
    document["annotations"][0] |= {"keypoints": [0] * 12, "num_keypoints": 0}
    del document["annotations"][1]["keypoints"]  # the same as all unlabeled
    url = str(tmp_path / "shards")
    manifest = source.write_shards(url)
    rebuilt = coco_ground_truth(url)
    assert rebuilt["categories"] == document["categories"]
    assert len(rebuilt["annotations"]) == len(document["annotations"]) > 12
    expected = {(a["image_id"], a["area"]): a for a in document["annotations"]}
    assert len(expected) == len(document["annotations"])
    without_keypoints = 0
    for annotation in rebuilt["annotations"]:
        original = expected[annotation["image_id"], annotation["area"]]
        keypoints = original.get("keypoints", [0] * 12)
        assert annotation["keypoints"] == pytest.approx(keypoints, abs=1e-9)
        assert annotation["num_keypoints"] == sum(v > 0 for v in keypoints[2::3])
        without_keypoints += annotation["num_keypoints"] == 0
    assert without_keypoints == 2
    assert manifest.counts["with_keypoints"] == len(expected) - 2
    per_image = [points for file in manifest.files for points in file.labelled_points]
    assert per_image == [int((row.keypoints[..., 2] > 0).sum()) for row in all_rows(url)]
    assert len(index(rebuilt).getAnnIds()) == len(expected)


def test_a_row_without_objects_has_no_keypoints(tmp_path):
    source = draw_coco(tmp_path / "source", keypoints=True)
    annotations = source.document["annotations"]
    source.document["annotations"] = [a for a in annotations if a["image_id"] != 5]
    source.write_shards(tmp_path / "shards")
    [row] = [row for row in all_rows(tmp_path / "shards") if row.image_id == 5]
    assert len(row.keypoints) == 0
