"""The evaluation job: predict on the shards of a split, measure, draw, report, record."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from faster_coco_eval import COCOeval_faster as COCOeval

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.comparison_images import draw_comparisons
from pipeline.evaluate.confusion import ConfusionMatrix, confusion_matrix
from pipeline.evaluate.dataset_metrics import dataset_metrics, metric_kinds
from pipeline.evaluate.evaluated_model import PREDICTIONS_FOLDER
from pipeline.evaluate.evaluation_files import EvaluationFiles, write_evaluation_files
from pipeline.evaluate.evaluation_record import record_evaluation
from pipeline.evaluate.image_matches import ImageMatches, match_images
from pipeline.evaluate.image_table import IMAGE_TABLE, ImageTable, TableOrigin, write_image_table
from pipeline.evaluate.metrics import HEADLINE_METRICS, ClassMetrics, Metrics
from pipeline.evaluate.report import REPORT_JSON, REPORT_PAGE, EvaluationReport
from pipeline.evaluate.shard_predictions import (
    ShardPredictions,
    make_predictions,
    read_written_predictions,
)
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.detection_rows import DetectionRow, coco_results
from pipeline.infer.inputs import plan_shards
from pipeline.infer.ledger import output_url
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.visualizations import IMAGES_FOLDER
from pipeline.output_layout import evaluated_shards_url, evaluation_url, to_portable
from pipeline.shards.manifest import read_manifest
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.stream.dataset_checks import check_classes
from pipeline.track.mlflow_run import TrackedRun, open_run
from pipeline.track.mlflow_store import recorded_uri, tracking_uri
from pipeline.track.stored_weights import trained_checkpoint
from pipeline.track.weights_source import pin_version, resolve_weights
from pipeline.train.run_record import read_run_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation. Field names are keys of the stage's ``_SUCCESS.json``.

    Args:
        metrics: ``bbox/AP``, ...; if the detector predicts masks or keypoints also ``segm/AP``, ...
            or ``keypoints/AP``, ...; on VOC also ``voc/AP50``. For a proposal network only
            ``proposals/AR100``, ...
        per_class: one row per category; empty for a proposal network.
        images: number of images evaluated, unreadable ones included.
        failed_images: number of unreadable images, counted as empty.
        dataset_digest: digest of the shards.
        weights: the checkpoint or version that was evaluated.
        report_url: the report as a page; ``report.json`` is in the same folder.
        pictures: URLs of images with ground truth and predictions side by side.
        run_id: the MLflow run with the metrics.
        run_url: where to view that run.
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
    """Evaluate a detector on the shards of ``evaluate.split``.

    Predictions are written chunk by chunk below `evaluation_url` and reused while weights and data
    stay the same. ``evaluate.workers`` workers make them if Ray is running, else this
    process.

    Args:
        config: the job's settings.
        weights: checkpoint URL or ``models:/...``; default ``evaluate.weights``, else the
            checkpoint of the output's training (`trained_checkpoint`).
        run_id: MLflow run to record in; default the run of the output's training if its checkpoint
            is evaluated, else a new run.

    Raises:
        FileNotFoundError: there are no shards or no weights.
        ConfigError: the detector and the dataset have no class in common.
        UnusablePredictionsError: ``evaluate.predictions`` are not those of all images.
        FolderInUseError: another job evaluates into the same output.
    """
    shards_url = evaluated_shards_url(config)
    folder = evaluation_url(config)
    manifest = read_manifest(shards_url)
    predict: Callable[[], ShardPredictions]
    if weights is None and config.evaluate.predictions is not None:
        written = read_written_predictions(config.evaluate.predictions, shards_url)
        classes, predict = written.classes, lambda: written
    else:
        weights = weights or config.evaluate.weights
        if weights is None:
            run_id = run_id or _training_run_id(config)
        source = pin_version(weights or trained_checkpoint(config), config)
        with resolve_weights(source, config) as path:
            model = ModelFiles.read(path, config.model)
        classes = model.classes()
        url = storage.join(folder, PREDICTIONS_FOLDER)
        predict = functools.partial(make_predictions, config, source, model, shards_url, url)
    if classes:
        check_classes("the detector", classes, manifest.categories, shards_url)
    with exclusive_use(folder, "evaluation"):
        return _evaluate(config, predict, run_id)


def _evaluate(
    config: RunConfig, predict: Callable[[], ShardPredictions], run_id: str | None
) -> EvaluationResult:
    shards_url = evaluated_shards_url(config)
    manifest = read_manifest(shards_url)
    folder, settings = evaluation_url(config), config.evaluate
    with open_run(config, "evaluate", run_id=run_id) as run:
        predictions = predict()
        measured = _measure(config, predictions)
        metrics, failures = measured.metrics, measured.failures
        write_image_table(storage.join(folder, IMAGE_TABLE), measured.table)
        files = EvaluationFiles()
        if measured.table.matches:
            files = write_evaluation_files(
                folder,
                predictions.url,
                measured.table,
                metrics,
                measured.confusion,
                settings.worst_images,
            )
        metrics = replace(metrics, notes=(*metrics.notes, *predictions.notes))
        images = draw_comparisons(
            plan_shards(shards_url),
            manifest,
            predictions.url,
            storage.join(folder, IMAGES_FOLDER),
            config.evaluate.pictures,
        )
        report = EvaluationReport(
            name=config.name,
            weights=predictions.weights,
            model_digest=predictions.model_digest,
            shards=shards_url,
            dataset_digest=manifest.digest,
            metrics=metrics,
            failures=tuple(failures),
            pictures=tuple(url[len(folder) :].strip("/") for url in images),
            plots=files.plots,
            worst=files.worst,
            split=settings.split,
        )
        report_url = _write_report(folder, config.output, report, run)
        written = (REPORT_PAGE, REPORT_JSON, IMAGE_TABLE, *files.all(), *report.pictures)
        record_evaluation(run, report, manifest, files.metrics(), folder, written)
        headline = {k: v for k, v in metrics.values.items() if k.endswith(HEADLINE_METRICS)}
        logger.info(
            "%s on %s: %s",
            predictions.weights,
            settings.split,
            "  ".join(f"{k} {v:.4f}" for k, v in headline.items()),
        )
    return EvaluationResult(
        metrics=metrics.values,
        per_class=metrics.per_class,
        images=metrics.images,
        failed_images=metrics.failed_images,
        dataset_digest=manifest.digest,
        weights=predictions.weights,
        report_url=report_url,
        pictures=tuple(images),
        run_id=run.run_id,
        run_url=run.url,
    )


def _training_run_id(config: RunConfig) -> str | None:
    """Return the MLflow run of the output's training; None if another store holds it."""
    record = read_run_record(config.output)
    if record is None or record.tracking_uri != recorded_uri(tracking_uri(config), config.output):
        return None
    return record.run_id


@dataclass(frozen=True)
class _Measured:
    """The metrics of the written predictions, ``file name: reason`` of failures, and more."""

    metrics: Metrics
    failures: list[str]
    table: ImageTable
    confusion: ConfusionMatrix | None


def _measure(config: RunConfig, predictions: ShardPredictions) -> _Measured:
    shards_url, settings = evaluated_shards_url(config), config.evaluate
    rows: list[DetectionRow] = [
        row
        for name in predictions.names
        for row in read_detection_rows(output_url(predictions.url, name))
    ]
    failures = [f"{row.file_name}: {row.error}" for row in rows if row.error is not None]
    manifest = read_manifest(shards_url)
    matches: dict[str, ImageMatches] = {}
    confusion: dict[str, ConfusionMatrix] = {}

    def inspect(kind: str, evaluator: COCOeval) -> None:
        matches[kind] = match_images(evaluator)
        if kind == "bbox":
            confusion[kind] = confusion_matrix(evaluator, settings.score_threshold)

    metrics = dataset_metrics(
        shards_url,
        [result for row in rows for result in coco_results(row)],
        metric_kinds(
            manifest.keypoints,
            has_masks=any(row.masks_rle is not None for row in rows),
            predicted_keypoints=next(
                (row.keypoint_names for row in rows if row.keypoint_names), None
            ),
            has_classes=all(row.category_ids is not None for row in rows),
        ),
        predictions.classes,
        settings.max_detections,
        inspect=inspect,
    )
    by_id = sorted(rows, key=lambda row: row.image_id)
    origin = TableOrigin(
        weights=predictions.weights,
        model_digest=predictions.model_digest,
        shards=shards_url,
        dataset_digest=manifest.digest,
        categories={row.category_id: row.name for row in metrics.per_class},
        max_detections=settings.max_detections,
        score_threshold=settings.score_threshold,
    )
    table = ImageTable(
        origin,
        image_ids=np.array([row.image_id for row in by_id], dtype=np.int64),
        file_names=tuple(row.file_name for row in by_id),
        errors={n: row.error for n, row in enumerate(by_id) if row.error is not None},
        matches=matches,
    )
    metrics = replace(metrics, images=len(rows), failed_images=len(failures))
    return _Measured(metrics, failures, table, confusion.get("bbox"))


def _write_report(folder: str, output: str, report: EvaluationReport, run: TrackedRun) -> str:
    report_url = storage.join(folder, REPORT_PAGE)
    storage.write_bytes(report_url, report.to_markdown().encode())
    document = to_portable({**report.to_json(), "run_id": run.run_id}, output)
    storage.write_json(storage.join(folder, REPORT_JSON), document)
    return report_url
