"""Two evaluated detectors are compared image by image, wherever their evaluations are."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.config import DataConfig, EvaluateConfig, RunConfig, TrackConfig
from pipeline.evaluate.comparison import run_comparison
from pipeline.evaluate.dataset_metrics import dataset_metrics
from pipeline.evaluate.evaluated_model import NotEvaluatedError, find_evaluation
from pipeline.evaluate.image_matches import match_images
from pipeline.evaluate.image_table import ImageTable, TableOrigin, write_image_table
from pipeline.infer.detection_files import write_detection_rows
from pipeline.infer.detection_rows import DetectionRow, coco_results
from pipeline.infer.inputs import plan_shards
from pipeline.infer.ledger import output_url
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage import DamagedRecordError
from pipeline.track.mlflow_run import open_run


def detections(row, manifest, noise, rng):
    """Return the objects of a row, moved by about ``noise`` pixels, as a detector's output."""
    boxes = row.boxes + rng.normal(0, noise, row.boxes.shape)
    return DetectionRow(
        image_id=row.image_id,
        file_name=row.file_name,
        height=row.size.height,
        width=row.size.width,
        boxes=boxes.tolist(),
        scores=rng.uniform(0.6, 1, len(boxes)).tolist(),
        labels=row.labels.tolist(),
        category_ids=[manifest.categories[label - 1].id for label in row.labels],
        category_names=[manifest.categories[label - 1].name for label in row.labels],
        masks_rle=None,
        error=None,
    )


def write_evaluation(folder, shards, weights, noise):
    """Write the evaluation of an imagined detector, and return its metrics."""
    rng, manifest, matches = np.random.default_rng(0), read_manifest(shards), {}
    predicted = {}
    for chunk in plan_shards(shards):
        rows = [detections(row, manifest, noise, rng) for row in read_rows(shards, chunk.files[0])]
        write_detection_rows(output_url(f"{folder}/predictions", chunk.name), rows)
        predicted |= {row.image_id: row for row in rows}
    metrics = dataset_metrics(
        shards,
        [result for row in predicted.values() for result in coco_results(row)],
        ("bbox",),
        inspect=lambda kind, run: matches.update({kind: match_images(run)}),
    )
    names = {row.category_id: row.name for row in metrics.per_class}
    origin = TableOrigin(weights, "m" * 64, shards, manifest.digest, names, 100, 0.5)
    ids = sorted(predicted)
    files = tuple(predicted[image_id].file_name for image_id in ids)
    table = ImageTable(origin, np.array(ids), files, {}, matches)
    write_image_table(f"{folder}/images.parquet", table)
    return metrics


@pytest.fixture(scope="module")
def compared(tmp_path_factory, mlflow_uri, tiny_model_config, tiny_checkpoint, shapes_shards):
    """A config, and the folders of two evaluations: ``b`` is worse than ``a``."""
    root = tmp_path_factory.mktemp("compared")
    config = RunConfig(
        name="tiny",
        output=str(root / "comparison"),
        model=tiny_model_config,
        data=DataConfig(val_shards=shapes_shards),
        evaluate=EvaluateConfig(batch=4, pictures=2, resamples=50),
        track=TrackConfig(uri=mlflow_uri),
    )
    a, b, weights = str(root / "a"), str(root / "b"), str(tiny_checkpoint)
    return SimpleNamespace(
        config=config,
        a=a,
        b=b,
        weights=weights,
        metrics_a=write_evaluation(f"{a}/evaluation", shapes_shards, weights, noise=1.0),
        metrics_b=write_evaluation(b, shapes_shards, weights, noise=4.0),
    )


def test_a_comparison_is_reported_drawn_and_recorded(compared, shapes_shards):
    result = run_comparison(compared.config, compared.a, compared.b)
    page = Path(result.report_url).read_text()
    report = json.loads(Path(result.report_url).with_name("comparison.json").read_text())
    [boxes] = report["kinds"]
    ap = boxes["ap"]
    assert ap["value_a"] == compared.metrics_a.values["bbox/AP"]
    assert ap["value_b"] == compared.metrics_b.values["bbox/AP"]
    assert ap["low"] < ap["difference"] < ap["high"] < 0
    assert "| A is better |" in page
    names = {row["name"] for row in boxes["per_class"]}
    assert names == {row.name for row in compared.metrics_a.per_class if row.objects}
    changed = [*report["better"], *report["worse"]]
    assert len(changed) + report["unchanged"] == read_manifest(shapes_shards).rows
    assert all((each["score_b"] or 0) >= (each["score_a"] or 0) for each in report["better"])
    assert all((each["score_b"] or 0) <= (each["score_a"] or 0) for each in report["worse"])
    assert len(report["worse"]) > len(report["better"])
    assert len(report["pictures"]) == 1 + bool(report["better"])
    for path in report["pictures"]:
        assert f"![{path}]({path})" in page
        assert Path(result.report_url).with_name("pictures").joinpath(Path(path).name).exists()

    client = MlflowClient(compared.config.track.uri)
    [run] = client.search_runs(
        [each.experiment_id for each in client.search_experiments()],
        f"tags.job = 'compare' and tags.model_a = '{compared.a}'",
    )
    assert run.data.metrics["bbox/AP_difference"] == ap["difference"]
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id, "comparison")}
    assert artifacts >= {"comparison/report.md", "comparison/comparison.json"}


def test_a_detector_compared_with_itself_has_no_changed_image(compared):
    result = run_comparison(compared.config, compared.a, f"{compared.a}/evaluation/images.parquet")
    report = result.report
    assert (report.better, report.worse, report.pictures) == ((), (), ())
    assert all((each.ap.low, each.ap.high) == (0, 0) for each in report.kinds)


def test_a_detector_without_an_evaluation_of_these_images_is_evaluated_on_request(
    compared, shapes_keypoint_shards
):
    checkpoint = compared.weights
    with pytest.raises(NotEvaluatedError, match=r"run maskrcnn-ray evaluate CONFIG .*--evaluate"):
        run_comparison(compared.config, compared.a, checkpoint)
    other_data = compared.config.model_copy(
        update={"data": DataConfig(val_shards=shapes_keypoint_shards)}
    )
    with pytest.raises(NotEvaluatedError, match=r"evaluated on other data \(digest.*--evaluate"):
        run_comparison(other_data, compared.a, compared.b)
    without_data = compared.config.model_copy(update={"data": DataConfig()})
    with pytest.raises(NotEvaluatedError, match=r"neither detector.*data\.val_shards=URL"):
        run_comparison(without_data, checkpoint, checkpoint, evaluate_missing=True)

    result = run_comparison(without_data, compared.a, checkpoint, evaluate_missing=True)
    report = result.report
    assert (report.b.weights, report.images) == (checkpoint, 11)
    assert report.a.dataset_digest == report.b.dataset_digest
    # An untrained detector finds nothing.
    assert report.kinds[0].ap.difference == pytest.approx(-report.kinds[0].ap.value_a, abs=0.05)


def test_the_evaluation_of_a_registered_version_is_found_in_mlflow(compared):
    client = MlflowClient(compared.config.track.uri, registry_uri=compared.config.track.uri)
    client.create_registered_model("compared")
    with open_run(compared.config, "evaluate") as run:
        client.log_artifact(run.run_id, f"{compared.b}/images.parquet", "evaluation")
    version = client.create_model_version(
        "compared", compared.weights, run.run_id, tags={"checkpoint": compared.weights}
    )
    client.set_registered_model_alias("compared", "champion", version.version)
    found = find_evaluation("models:/compared@champion", compared.config)
    assert found.source == f"models:/compared/{version.version}"
    assert found.table.origin.weights == compared.weights
    # The prediction files are not in MLflow: the drawn images are predicted again.
    result = run_comparison(compared.config, compared.a, "models:/compared@champion")
    assert result.report.pictures

    empty = client.create_model_version("compared", compared.weights)
    with pytest.raises(
        NotEvaluatedError, match=rf"evaluate\.weights=models:/compared/{empty.version}"
    ):
        find_evaluation(f"models:/compared/{empty.version}", compared.config)


def test_a_damaged_table_is_named(compared, tmp_path):
    (tmp_path / "images.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DamagedRecordError, match=r"images\.parquet is not a complete table"):
        run_comparison(compared.config, compared.a, str(tmp_path))
