"""A VOC data set is measured VOC's way too, in training and by the evaluation job."""

from pathlib import Path

import pytest

from model import build_detector, load_detector, save_detector
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.measure import measure_results
from pipeline.evaluate.predictions import validate
from pipeline.ingest.coco import coco_ground_truth
from pipeline.ingest.splits import prepare_split
from pipeline.shards.manifest import read_manifest
from tests.annotated_sets import voc_object, write_voc

IMAGES = {
    "000001": [voc_object("dog", 5, 5, 30, 30), voc_object("cat", 31, 3, 55, 20, difficult=1)],
    "000002": [voc_object("cat", 5, 5, 20, 20), voc_object("cat", 31, 3, 55, 20)],
}


@pytest.fixture
def voc_config(run_config, tmp_path):
    """Shards of two VOC images, boxes without masks, and the settings that they came from."""
    write_voc(tmp_path / "VOC2007", IMAGES)
    part = {"root": str(tmp_path / "VOC2007"), "set": "trainval"}
    data = DataConfig.model_validate({"source": "voc", "train": part, "val": part})
    config = run_config.model_copy(
        update={"data": data, "evaluate": EvaluateConfig(batch=2, pictures=1)}
    )
    prepare_split(config, "val")
    return config


def test_who_finds_the_boxes_has_ap_one_and_the_difficult_one_does_not_matter(voc_config):
    shards = f"{voc_config.output}/shards/val"
    boxes = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for annotation in coco_ground_truth(shards)["annotations"]
        if not annotation["iscrowd"]
    ]
    metrics = measure_results(shards, boxes, ["bbox"])
    assert metrics.values["voc/AP50"] == 1
    assert metrics.values["bbox/AP50"] == pytest.approx(1)
    by_name = {row.name: row for row in metrics.per_class}
    assert by_name["cat"].values["voc/AP50"] == 1
    assert by_name["sofa"].values["voc/AP50"] == -1
    # One cat of two, surely: precision 1 at the recalls 0, 0.1 ... 0.5.
    fewer = measure_results(shards, [box for box in boxes if box["bbox"][0] != 30], ["bbox"])
    assert fewer.values["voc/AP50"] == pytest.approx((1 + 6 / 11) / 2)


def test_the_report_and_the_training_have_vocs_number(voc_config, tiny_model_config):
    """With a mask head on boxes alone: masks have nothing to be compared with."""
    shards = f"{voc_config.output}/shards/val"
    checkpoint = Path(voc_config.output) / "train" / "step_00000010"
    model = tiny_model_config.model_copy(update={"num_classes": 20})
    save_detector(build_detector(model, read_manifest(shards).categories), checkpoint)
    result = run_evaluation(voc_config.model_copy(update={"model": model}))
    assert result.metrics["voc/AP50"] >= 0
    assert result.metrics["segm/AP"] == -1
    in_training = validate(load_detector(checkpoint), shards, 0, 1, batch=2)
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)
    page = Path(result.report_url).read_text()
    assert "VOC's mean AP of boxes at IoU 0.5: " in page
    assert "| Masks AP50 | VOC AP50 |" in page


def test_other_data_sets_have_no_voc_number(shapes_shards):
    assert "voc/AP50" not in measure_results(shapes_shards, [], ["bbox"]).values
