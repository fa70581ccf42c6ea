"""The report shows every kind of metrics under its own column titles."""

from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.metrics import COCO_METRICS, KEYPOINT_METRICS
from pipeline.evaluate.report import EvaluationReport
from pipeline.evaluate.validation import predict_rows
from pipeline.shards.coco_ground_truth import coco_ground_truth
from tests.pipeline.oracle import oracle, read_all_rows


def test_the_report_has_one_table_per_set_of_metrics(shapes_keypoint_shards):
    gt = coco_ground_truth(shapes_keypoint_shards)
    rows = read_all_rows(shapes_keypoint_shards)
    results = predict_rows(oracle(shapes_keypoint_shards), rows, batch=3).results
    metrics = coco_metrics(gt, results, ["bbox", "keypoints"])
    page = EvaluationReport("x", "w", "m", "s", "d", metrics, (), ()).to_markdown()
    lines = page.splitlines()
    assert f"| | {' | '.join(COCO_METRICS)} |" in lines
    assert f"| | {' | '.join(KEYPOINT_METRICS)} |" in lines
    [row] = [line for line in lines if line.startswith("| Keypoints |")]
    assert row.count("|") == len(KEYPOINT_METRICS) + 2 and row.startswith("| Keypoints | 100.0 |")
    assert "| class | objects | Boxes AP | Boxes AP50 | Keypoints AP | Keypoints AP50 |" in lines
    assert any("sigma of 0.05" in line for line in lines)
