"""The evaluation job measures what it says, reports it, and records it with its data."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from model import load_detector
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.evaluate.coco_metrics import NUMBERS
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.predictions import validate
from pipeline.evaluate.registration import register_evaluated
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.track.mlflow_run import open_run
from pipeline.train.run_record import RunRecord, write_record


@pytest.fixture
def evaluate_config(run_config, shapes_shards, tiny_checkpoint):
    """An output whose training left the tiny detector."""
    shutil.copytree(tiny_checkpoint, Path(run_config.output) / "train" / "step_00000010")
    return run_config.model_copy(
        update={
            "data": DataConfig(val_shards=shapes_shards),
            "evaluate": EvaluateConfig(batch=2, pictures=2),
        }
    )


def test_an_evaluation_is_measured_reported_and_recorded(evaluate_config, tiny_checkpoint):
    shards = evaluate_config.data.val_shards
    result = run_evaluation(evaluate_config)
    assert result.weights.endswith("train/step_00000010")
    assert (result.images, result.failed_images) == (11, 0)
    assert set(result.metrics) == {f"{k}/{n}" for k in ("bbox", "segm") for n in NUMBERS}
    in_training = validate(load_detector(tiny_checkpoint), shards, 0, 1, batch=2)
    assert result.metrics == pytest.approx(in_training.values, abs=1e-9)

    folder = Path(result.report_url).parent
    page = Path(result.report_url).read_text()
    digest = read_manifest(shards).digest
    assert digest[:12] in page
    assert all(f"| {row.name} | {row.objects} |" in page for row in result.per_class)
    assert [str(folder / name) for name in _pictures(page)] == list(result.pictures)
    assert len(result.pictures) == 2
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["values"] == result.metrics
    assert report["dataset_digest"] == digest

    client = MlflowClient(evaluate_config.track.uri)
    run = client.get_run(result.run_id)
    assert run.data.metrics["segm/AP"] == result.metrics["segm/AP"]
    [data] = run.inputs.dataset_inputs
    assert digest.startswith(data.dataset.digest)
    artifacts = {file.path for file in client.list_artifacts(result.run_id, "evaluation")}
    assert artifacts >= {"evaluation/report.md", "evaluation/report.json", "evaluation/pictures"}


def _pictures(page):
    return [line.partition("](")[2].rstrip(")") for line in page.splitlines() if line[:2] == "!["]


def test_the_numbers_of_a_trained_checkpoint_go_into_its_run(evaluate_config):
    with open_run(evaluate_config, "train") as training:
        record = RunRecord(training.run_id, training.uri, "", {}, {})
    write_record(f"{evaluate_config.output}/train/run.json", record)
    result = run_evaluation(evaluate_config)
    assert result.run_id == training.run_id
    elsewhere = run_evaluation(evaluate_config, weights=result.weights)
    assert elsewhere.run_id != training.run_id
    assert elsewhere.metrics == result.metrics


def test_what_was_evaluated_is_what_is_registered(evaluate_config):
    with pytest.raises(FileNotFoundError, match=r"run workflows/evaluate\.py first"):
        register_evaluated(evaluate_config)
    result = run_evaluation(evaluate_config)
    version = register_evaluated(evaluate_config)
    assert version.promoted
    client = MlflowClient(evaluate_config.track.uri, registry_uri=evaluate_config.track.uri)
    stored = client.get_model_version(version.name, version.version)
    assert stored.tags["dataset_digest"] == result.dataset_digest
    assert stored.tags["metric/segm/AP"] == repr(result.metrics["segm/AP"])
    champion = run_evaluation(evaluate_config, weights=f"models:/{version.name}@champion")
    assert champion.weights == f"models:/{version.name}/{version.version}"
    assert champion.metrics == result.metrics


def test_an_unreadable_image_is_named_and_counted(evaluate_config, shapes_shards, tmp_path):
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
    rows = list(read_rows(str(folder), file.name))
    name = rows[0].file_name
    assert f"- {name}: cannot be decoded" in Path(result.report_url).read_text()
    drawn = [Path(picture).stem.partition("_")[2] for picture in result.pictures]
    assert drawn == [Path(row.file_name).stem for row in rows[1:3]]
