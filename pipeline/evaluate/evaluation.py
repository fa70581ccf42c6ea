"""The evaluation job: a detector on the validation shards, measured, drawn, reported, recorded."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.coco_metrics import MAIN_NUMBERS, ClassMetrics, Metrics
from pipeline.evaluate.measure import measure_results
from pipeline.evaluate.pictures import draw_comparisons
from pipeline.evaluate.predictions import metric_kinds
from pipeline.evaluate.report import EvaluationReport
from pipeline.infer.inputs import plan_inputs
from pipeline.infer.ledger import output_url
from pipeline.infer.piece_worker import PredictionJob
from pipeline.infer.prediction_rows import PredictedRow, coco_results, read_predictions
from pipeline.infer.prediction_run import PieceOutcome, predict_pieces
from pipeline.infer.predictor import ModelFiles
from pipeline.ingest.splits import split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.track.mlflow_run import TrackedRun, open_run, tracking_uri
from pipeline.track.weights_source import newest_checkpoint, pin_version, resolve_weights
from pipeline.train.run_record import recorded_run

logger = logging.getLogger(__name__)

EVALUATION = "evaluation"
REPORT_NAME = "report.json"

IN_VIEWS = (
    "Measured with model.test_augmentation. A version registered from these weights looks at "
    "pictures as the settings of its training say."
)


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found and where it is kept.

    Args:
        metrics: ``bbox/AP`` ... and ``segm/AP`` ..., ``keypoints/AP`` ... of a detector with them;
            on VOC also ``voc/AP50``; of a proposal network ``proposals/AR100`` ... instead.
        per_class: one row per category; none of a proposal network.
        images: images evaluated, with the unreadable ones.
        failed_images: unreadable images, counted as empty.
        dataset_digest: of the shards.
        weights: the checkpoint or version that was measured.
        report_url: the page for people; ``report.json`` beside it.
        pictures: URLs of ground truth and prediction side by side.
        run_id: the MLflow run that holds the numbers.
        run_url: where to look at it.
    """

    metrics: dict[str, float]
    per_class: tuple[ClassMetrics, ...]
    images: int
    failed_images: int
    dataset_digest: str
    weights: str
    report_url: str
    pictures: tuple[str, ...]
    run_id: str
    run_url: str


def run_evaluation(
    config: RunConfig, weights: str | None = None, run_id: str | None = None
) -> EvaluationResult:
    """Measure a detector on the validation shards.

    Predictions are written piece by piece below ``{output}/evaluation`` and not made again for the
    same weights and data; on a joined Ray cluster ``evaluate.workers`` replicas make them.

    Args:
        config: the job's settings.
        weights: checkpoint URL or ``models:/...``; default ``evaluate.weights``, else the newest
            checkpoint of the output's training.
        run_id: MLflow run to record in; default that of the output's training if its checkpoint is
            measured, else a new one.

    Raises:
        FileNotFoundError: there are no shards or no weights.
        ValueError: the detector predicts categories that the data set does not have.
    """
    shards_url = split_shards_url(config, "val")
    manifest = read_manifest(shards_url)
    named = weights or config.evaluate.weights
    if named is None:
        run_id = run_id or _training_run_id(config)
    source = pin_version(named or newest_checkpoint(config), config)
    with resolve_weights(source, config) as path:
        model = ModelFiles.read(path, config.model)
    folder = storage.join(config.output, EVALUATION)
    predictions = storage.join(folder, "predictions")
    with open_run(config, "evaluate", run_id=run_id) as run:
        pieces = plan_inputs(shards_url, images_per_piece=1)
        job = PredictionJob(predictions, config.evaluate.batch, 0.0, source)
        outcomes = predict_pieces(pieces, model, job, config.evaluate.workers)
        metrics, failures = _measure(shards_url, predictions, outcomes)
        if config.model.test_augmentation is not None:
            metrics = replace(metrics, notes=(*metrics.notes, IN_VIEWS))
        pictures = draw_comparisons(
            pieces,
            manifest,
            predictions,
            storage.join(folder, "pictures"),
            config.evaluate.pictures,
        )
        report = EvaluationReport(
            name=config.name,
            weights=source,
            model_digest=model.digest,
            shards=shards_url,
            dataset_digest=manifest.digest,
            metrics=metrics,
            failures=tuple(failures),
            pictures=tuple(url[len(folder) :].strip("/") for url in pictures),
        )
        report_url = _write_report(folder, report, run)
        _record(run, report, folder)
    return EvaluationResult(
        metrics=metrics.values,
        per_class=metrics.per_class,
        images=metrics.images,
        failed_images=metrics.failed_images,
        dataset_digest=manifest.digest,
        weights=source,
        report_url=report_url,
        pictures=tuple(pictures),
        run_id=run.run_id,
        run_url=run.url,
    )


def _training_run_id(config: RunConfig) -> str | None:
    record = recorded_run(storage.join(config.output, "train", "run.json"))
    if record is None or record.tracking_uri != tracking_uri(config):
        return None
    return record.run_id


def _measure(
    shards_url: str, predictions: str, outcomes: Sequence[PieceOutcome]
) -> tuple[Metrics, list[str]]:
    rows: list[PredictedRow] = [
        row
        for outcome in outcomes
        for row in read_predictions(output_url(predictions, outcome.entry.name))
    ]
    failures = [f"{row.file_name}: {row.error}" for row in rows if row.error is not None]
    has_masks = any(row.masks_rle is not None for row in rows)
    found_keypoints = next((row.keypoint_names for row in rows if row.keypoint_names), None)
    metrics = measure_results(
        shards_url,
        [result for row in rows for result in coco_results(row)],
        metric_kinds(
            read_manifest(shards_url).keypoints,
            has_masks,
            found_keypoints,
            knows_classes=all(row.category_ids is not None for row in rows),
        ),
    )
    return replace(metrics, images=len(rows), failed_images=len(failures)), failures


def _write_report(folder: str, report: EvaluationReport, run: TrackedRun) -> str:
    report_url = storage.join(folder, "report.md")
    storage.write_bytes(report_url, report.to_markdown().encode())
    document = {**report.to_json(), "run_id": run.run_id}
    storage.write_json(storage.join(folder, REPORT_NAME), document)
    return report_url


def _record(run: TrackedRun, report: EvaluationReport, folder: str) -> None:
    """Numbers, data lineage, the report and its pictures in the MLflow run."""
    client = MlflowClient(tracking_uri=run.uri)
    digest = report.dataset_digest[:36]  # the width of MLflow's column
    data = Dataset("validation", digest, "shards", json.dumps({"url": report.shards}))
    client.log_inputs(run.run_id, [DatasetInput(data)])
    now_ms = int(time.time() * 1000)
    client.log_batch(
        run.run_id,
        metrics=[
            Metric(key, value, now_ms, 0, dataset_name="validation", dataset_digest=digest)
            for key, value in report.metrics.values.items()
        ],
    )
    client.set_tag(run.run_id, "evaluated_weights", report.weights)
    for name in ("report.md", REPORT_NAME, *report.pictures):
        with storage.fetch(storage.join(folder, name)) as local:
            parent = f"{EVALUATION}/{name}".rpartition("/")[0]
            client.log_artifact(run.run_id, str(local), parent)
    main = {k: v for k, v in report.metrics.values.items() if k.endswith(MAIN_NUMBERS)}
    logger.info("%s: %s", report.weights, "  ".join(f"{k} {v:.4f}" for k, v in main.items()))
