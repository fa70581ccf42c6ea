"""The evaluation job measures a detector, writes a report, and records it in MLflow."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from model import ModelConfig, Predictor
from model.images.decode import decode_image
from model.weights import load_network
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.average_precision import precision_table
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.image_table import read_image_table
from pipeline.evaluate.metrics import COCO_METRICS, mean_of_measured
from pipeline.evaluate.validation import measure, predict_shards
from pipeline.infer.detection_files import read_detection_rows
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage.exclusive_use import FolderInUseError, exclusive_use
from pipeline.track.mlflow_run import open_run
from pipeline.train.run_record import RunRecord, write_run_record


def test_an_evaluation_is_measured_reported_and_recorded(evaluate_config, tiny_checkpoint):
    shards = evaluate_config.data.val_shards
    result = run_evaluation(evaluate_config)
    assert result.weights.endswith("train/step_00000010")
    assert (result.images, result.failed_images) == (11, 0)
    assert set(result.metrics) == {f"{k}/{m}" for k in ("bbox", "segm") for m in COCO_METRICS}
    in_training = measure(predict_shards(load_network(tiny_checkpoint), shards, 0, 1, batch=2))
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)

    folder = Path(result.report_url).parent
    page = Path(result.report_url).read_text()
    digest = read_manifest(shards).digest
    assert digest[:12] in page
    assert all(f"| {row.name} | {row.objects} |" in page for row in result.per_class)
    shown = [str(folder / name) for name in _image_links(page)]
    assert shown[:2] == list(result.pictures)
    assert all(Path(path).is_file() for path in shown)
    plots = {Path(path).stem for path in shown if Path(path).parent.name == "plots"}
    assert plots >= {"confusion", "precision_recall_bbox", "calibration_segm"}
    assert len(result.pictures) == 2
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["values"] == result.metrics
    assert report["dataset_digest"] == digest

    table = read_image_table(str(folder / "images.parquet"))
    for kind in ("bbox", "segm"):
        ap = mean_of_measured(precision_table(table.matches[kind]))
        assert ap == result.metrics[f"{kind}/AP"]
    assert (table.origin.dataset_digest, table.origin.weights) == (digest, result.weights)
    assert table.origin.model_digest == report["model_digest"]

    client = MlflowClient(evaluate_config.track.uri)
    run = client.get_run(result.run_id)
    [metric] = client.get_metric_history(result.run_id, "segm/AP")
    assert (metric.value, metric.step) == (result.metrics["segm/AP"], 10)
    for row in result.per_class:
        if row.objects:
            assert run.data.metrics[f"bbox/AP/{row.name}"] == row.values["bbox/AP"]
    [data] = run.inputs.dataset_inputs
    assert digest.startswith(data.dataset.digest)
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "validation")]
    artifacts = {file.path for file in client.list_artifacts(result.run_id, "evaluation")}
    files = ("report.md", "report.json", "images.parquet", "pictures", "plots", "classes.csv")
    assert artifacts >= {f"evaluation/{name}" for name in files}


def _image_links(page):
    return [line.partition("](")[2].rstrip(")") for line in page.splitlines() if line[:2] == "!["]


def test_metrics_of_a_trained_checkpoint_are_recorded_in_its_training_run(evaluate_config):
    with open_run(evaluate_config, "train") as training:
        record = RunRecord(training.run_id, training.uri, "", {}, {})
    write_run_record(evaluate_config.output, record)
    result = run_evaluation(evaluate_config)
    assert result.run_id == training.run_id
    explicit = run_evaluation(evaluate_config, weights=result.weights)
    assert explicit.run_id != training.run_id
    assert explicit.metrics == result.metrics


def test_an_unreadable_image_is_reported_and_counted(evaluate_config, shapes_shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shapes_shards, folder)
    file = read_manifest(shapes_shards).files[0]
    table = pq.read_table(folder / file.name)
    encoded = table["image_bytes"].to_pylist()
    encoded[0] = encoded[0][:200]
    table = table.set_column(0, "image_bytes", pa.array(encoded, pa.binary()))
    pq.write_table(table, folder / file.name)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
    manifest["files"][0]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))

    config = evaluate_config.model_copy(update={"data": DataConfig(val_shards=str(folder))})
    result = run_evaluation(config)
    assert (result.images, result.failed_images) == (11, 1)
    table = read_image_table(str(Path(result.report_url).with_name("images.parquet")))
    [error] = table.errors.values()
    assert "cannot be decoded" in error
    rows = list(read_rows(str(folder), file.name))
    name = rows[0].file_name
    assert f"- {name}: cannot be decoded" in Path(result.report_url).read_text()
    drawn = [Path(url).stem.partition("_")[2] for url in result.pictures]
    assert drawn == [Path(row.file_name).stem for row in rows[1:3]]


def test_the_test_augmentation_of_the_config_replaces_that_of_the_checkpoint(
    run_config, tiny_checkpoint, shapes_shards
):
    plain = load_network(tiny_checkpoint)
    augmentation = {"test_augmentation": {"short_sides": (48, 64), "long_side": 96}}
    model = ModelConfig.model_validate(plain.config.model_dump() | augmentation)
    config = run_config.model_copy(
        update={
            "model": model,
            "data": DataConfig(val_shards=shapes_shards),
            "evaluate": EvaluateConfig(batch=2, pictures=0),
        }
    )
    result = run_evaluation(config, weights=str(tiny_checkpoint))
    page = Path(result.report_url)
    assert "Measured with model.test_augmentation" in page.read_text()
    images = [
        row
        for file in read_manifest(shapes_shards).files
        for row in read_rows(shapes_shards, file.name)
    ]
    files = sorted(page.parent.glob("predictions/*.parquet"))
    rows = {row.image_id: row for file in files for row in read_detection_rows(str(file))}
    augmented, differs = load_network(tiny_checkpoint, model), []
    for image in images:
        pixels, row = decode_image(image.image_bytes), rows[image.image_id]
        (expected,) = Predictor(augmented).predict([pixels])
        assert row.scores == pytest.approx(expected.scores.tolist(), abs=1e-5)
        assert row.boxes[0] == pytest.approx(expected.boxes[0].tolist(), abs=1e-2)
        (unaugmented,) = Predictor(plain).predict([pixels])
        differs.append(row.scores != pytest.approx(unaugmented.scores.tolist(), abs=1e-5))
    # In an image, the best detections may all be of the view that is not augmented.
    assert any(differs)


def test_a_second_evaluation_in_the_same_output_is_refused(evaluate_config):
    folder = f"{evaluate_config.output}/evaluation"
    with (
        exclusive_use(folder, "evaluation"),
        pytest.raises(FolderInUseError, match=r"in use by another job \(evaluation"),
    ):
        run_evaluation(evaluate_config)
