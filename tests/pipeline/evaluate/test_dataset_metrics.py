"""The protocol and the annotations of a dataset decide which metrics a detector gets."""

import pytest

from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from pipeline.evaluate.dataset_metrics import dataset_metrics, metric_kinds
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.keypoints import KeypointSet


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
