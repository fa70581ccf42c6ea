"""The protocol and the annotations of a dataset decide which metrics a detector gets."""

import dataclasses
import shutil

import pytest

from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from model.structures import Category
from pipeline.evaluate.dataset_metrics import dataset_metrics, metric_kinds
from pipeline.evaluate.report import EvaluationReport
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.keypoints import KeypointSet
from pipeline.shards.manifest import read_manifest, write_manifest


def test_perfect_boxes_have_a_voc_ap_of_one_without_the_difficult_object(voc_config):
    shards = f"{voc_config.output}/shards/val"
    boxes = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for annotation in coco_ground_truth(shards)["annotations"]
        if not annotation["iscrowd"]
    ]
    metrics = dataset_metrics(shards, boxes, ["bbox"])
    assert metrics.values["voc/AP50"] == 1
    assert metrics.values["bbox/AP50"] == pytest.approx(1)
    by_name = {row.name: row for row in metrics.per_class}
    assert by_name["cat"].values["voc/AP50"] == 1
    assert by_name["sofa"].values["voc/AP50"] == -1
    # One of two cats is detected: precision 1 at the recalls 0, 0.1, ..., 0.5.
    fewer = dataset_metrics(shards, [box for box in boxes if box["bbox"][0] != 30], ["bbox"])
    assert fewer.values["voc/AP50"] == pytest.approx((1 + 6 / 11) / 2)


def test_other_datasets_have_no_voc_metric(shapes_shards):
    assert "voc/AP50" not in dataset_metrics(shapes_shards, [], ["bbox"]).values


def test_metric_kinds_follow_the_heads_and_the_dataset(caplog):
    person = COCO_PERSON_KEYPOINTS
    annotated = KeypointSet(person, (), (1,))
    assert metric_kinds(annotated, has_masks=False, predicted_keypoints=None) == ("bbox",)
    assert metric_kinds(annotated, True, list(person)) == ("bbox", "segm", "keypoints")
    assert not caplog.records
    assert metric_kinds(None, False, person) == ("bbox",)
    assert "no keypoints" in caplog.text
    with pytest.raises(ValueError, match="another order"):
        metric_kinds(annotated, False, person[::-1])


def perfect_boxes(shards):
    return [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for annotation in coco_ground_truth(shards)["annotations"]
    ]


def rewrite(shards, folder, categories):
    shutil.copytree(shards, folder)
    manifest = read_manifest(shards)
    write_manifest(str(folder), dataclasses.replace(manifest, categories=tuple(categories)))
    return str(folder)


def test_predictions_of_a_split_that_is_numbered_otherwise_have_the_same_ap(
    shapes_shards, tmp_path
):
    classes = read_manifest(shapes_shards).categories
    renumbered = [Category(60 - category.id, category.name) for category in classes]
    other = rewrite(shapes_shards, tmp_path / "s", renumbered)
    results = perfect_boxes(shapes_shards)
    expected = dataset_metrics(shapes_shards, results, ["bbox"])
    metrics = dataset_metrics(other, results, ["bbox"], classes)
    assert metrics.values == expected.values
    assert metrics.values["bbox/AP"] == pytest.approx(1)


def test_a_class_that_the_dataset_lacks_has_no_ap_and_changes_no_other(shapes_shards):
    classes = read_manifest(shapes_shards).categories
    rare = Category(99, "octagon")
    results = perfect_boxes(shapes_shards)
    extra = [{**results[0], "category_id": 99, "score": 1.0}]
    metrics = dataset_metrics(shapes_shards, [*results, *extra], ["bbox"], [*classes, rare])
    assert metrics.values["bbox/AP"] == pytest.approx(1)
    by_name = {row.name: row for row in metrics.per_class}
    assert by_name["octagon"].values["bbox/AP"] == -1
    report = EvaluationReport("r", "w", "m", "s", "d", metrics, (), ())
    assert "| octagon | 0 | - | - |" in report.to_markdown()


def test_a_class_that_the_detector_lacks_is_missed_and_named(shapes_shards):
    classes = read_manifest(shapes_shards).categories
    known = [category for category in classes if category.name != "star"]
    results = [box for box in perfect_boxes(shapes_shards) if box["category_id"] != 40]
    metrics = dataset_metrics(shapes_shards, results, ["bbox"], known)
    by_name = {row.name: row.values["bbox/AP"] for row in metrics.per_class}
    assert by_name["star"] == 0 and by_name["circle"] == pytest.approx(1)
    assert any(note.endswith("AP is 0: star.") for note in metrics.notes)
