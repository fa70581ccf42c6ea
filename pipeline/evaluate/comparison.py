"""The comparison job: what changed from detector A to detector B, on the same images."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities import Metric

from model.drawing import draw_objects
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.draw import encode_png, side_by_side
from pipeline.evaluate.changed_images import ChangedImage, ChangedImages, find_changed_images
from pipeline.evaluate.comparison_images import ground_truth_objects
from pipeline.evaluate.comparison_report import (
    COMPARISON_JSON,
    COMPARISON_PAGE,
    ClassDifference,
    ComparisonReport,
    KindComparison,
)
from pipeline.evaluate.evaluated_model import (
    EvaluatedModel,
    NotEvaluatedError,
    find_evaluation,
)
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.image_table import ImageTable
from pipeline.evaluate.paired_bootstrap import DifferentDataError
from pipeline.evaluate.selected_images import read_selected_detections, read_selected_rows
from pipeline.evaluate.table_comparison import check_comparable, compare_tables
from pipeline.infer.detection_rows import DetectionRow, detection_row
from pipeline.infer.detection_stream import predict_images
from pipeline.infer.input_image import InputImage
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.visualizations import IMAGES_FOLDER, predicted_objects, visualization_name
from pipeline.output_layout import COMPARISON_FOLDER
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import ShardRow
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.track.mlflow_run import TrackedRun, open_run
from pipeline.track.mlflow_store import tracking_uri
from pipeline.track.weights_source import resolve_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison.

    Args:
        report: what changed.
        report_url: the report as a page; ``comparison.json`` is in the same folder.
        run_url: where to view its MLflow run.
    """

    report: ComparisonReport
    report_url: str
    run_url: str


def run_comparison(
    config: RunConfig, source_a: str, source_b: str, evaluate_missing: bool = False
) -> ComparisonResult:
    """Compare two detectors that were evaluated on the same data.

    Args:
        config: the job's settings; ``data.val_shards``, if set, is where the images are now.
        source_a: a run folder, the folder of an evaluation, or ``models:/name@alias``.
        source_b: likewise.
        evaluate_missing: evaluate a detector that has no evaluation, or one on other data.

    Raises:
        NotEvaluatedError: a detector was not evaluated, or on other data than the other one.
        StorageError: a table is damaged, or the shards are missing.
    """
    with exclusive_use(storage.join(config.output, COMPARISON_FOLDER), "comparison"):
        a, b = _find_both(config, source_a, source_b, evaluate_missing)
        with open_run(config, "compare") as run:
            report = _compare(config, a, b)
            report_url = _write(config, report)
            _record(run, report, storage.join(config.output, COMPARISON_FOLDER))
    return ComparisonResult(report, report_url, run.url)


def _find_both(
    config: RunConfig, source_a: str, source_b: str, evaluate_missing: bool
) -> tuple[EvaluatedModel, EvaluatedModel]:
    """Return both evaluations, on the same data: that of the config, else that of B, else of A."""
    shards = config.data.val_shards
    digest = None if shards is None else read_manifest(shards).digest
    found: dict[str, EvaluatedModel] = {}
    missing: dict[str, NotEvaluatedError] = {}
    for name, source in (("b", source_b), ("a", source_a)):
        try:
            found[name] = find_evaluation(source, config, digest)
            digest = digest or found[name].table.origin.dataset_digest
            shards = shards or found[name].table.origin.shards
        except NotEvaluatedError as error:
            missing[name] = error
    if missing and not evaluate_missing:
        raise next(iter(missing.values()))
    for name in missing:
        source = source_a if name == "a" else source_b
        if shards is None:
            raise NotEvaluatedError(
                "neither detector was evaluated, so the images are not known; name them with "
                "data.val_shards=URL"
            )
        found[name] = _evaluate(config, source, shards, name)
    try:
        check_comparable(found["a"].table, found["b"].table)
    except DifferentDataError as error:
        raise NotEvaluatedError(str(error)) from None
    return found["a"], found["b"]


def _evaluate(config: RunConfig, source: str, shards: str, name: str) -> EvaluatedModel:
    """Evaluate a detector in a folder of its own below the output."""
    output = storage.join(config.output, COMPARISON_FOLDER, name)
    logger.info("evaluating %s on %s", source, shards)
    own = config.model_copy(
        update={
            "output": output,
            "data": config.data.model_copy(update={"val_shards": shards}),
            "evaluate": config.evaluate.model_copy(update={"split": "val"}),
            "track": config.track.model_copy(update={"uri": tracking_uri(config)}),
        }
    )
    run_evaluation(own, weights=_weights_of(source, config))
    return replace(find_evaluation(output, own), source=source)


def _weights_of(source: str, config: RunConfig) -> str:
    """Return the weights that a folder's evaluation, on other data, measured; else the source."""
    if source.startswith("models:/"):
        return source
    try:
        return find_evaluation(source, config).table.origin.weights
    except NotEvaluatedError:
        return source


def _compare(config: RunConfig, a: EvaluatedModel, b: EvaluatedModel) -> ComparisonReport:
    settings = config.evaluate
    common = [kind for kind in a.table.matches if kind in b.table.matches]
    if not common:
        raise NotEvaluatedError(
            f"{a.source} and {b.source} have no metrics in common that can be compared image by "
            "image (boxes, masks or keypoints)"
        )
    logger.info("comparing %d images, %d resamples", len(a.table.image_ids), settings.resamples)
    kinds = tuple(_compare_kind(config, a.table, b.table, kind) for kind in common)
    kind = "segm" if "segm" in common else common[-1]
    changed = find_changed_images(a.table, b.table, kind)
    return ComparisonReport(
        a=replace(a.table.origin, weights=a.source),
        b=replace(b.table.origin, weights=b.source),
        images=len(a.table.image_ids),
        resamples=settings.resamples,
        confidence=settings.confidence,
        kinds=kinds,
        kind=kind,
        better=changed.better,
        worse=changed.worse,
        unchanged=changed.unchanged,
        pictures=tuple(_draw(config, a, b, changed)),
    )


def _compare_kind(config: RunConfig, a: ImageTable, b: ImageTable, kind: str) -> KindComparison:
    settings = config.evaluate
    comparison = compare_tables(
        a, b, f"{kind}/AP", settings.resamples, settings.confidence, config.seed
    )
    matches = a.matches[kind]
    objects = Counter(matches.class_ids[matches.object_classes].tolist())
    per_class = (
        ClassDifference(class_id, a.origin.categories[class_id], objects[class_id], ap)
        for class_id, ap in comparison.per_class.items()
    )
    ordered = sorted(per_class, key=lambda row: row.ap.difference)
    return KindComparison(kind, comparison.overall, tuple(ordered))


def _draw(
    config: RunConfig, a: EvaluatedModel, b: EvaluatedModel, changed: ChangedImages
) -> Iterator[str]:
    """Draw the images that changed most, as many worse ones as better ones; yield their paths."""
    half = -(-config.evaluate.pictures // 2)
    shown = {"worse": changed.worse[:half], "better": changed.better[:half]}
    ids = {each.image_id for images in shown.values() for each in images}
    if not ids:
        return
    shards = config.data.val_shards or a.table.origin.shards
    manifest, rows = read_manifest(shards), read_selected_rows(shards, ids)
    predicted = [_detections(config, model, shards, rows) for model in (a, b)]
    threshold = a.table.origin.score_threshold
    folder = storage.join(config.output, COMPARISON_FOLDER)
    for word, images in shown.items():
        for number, image in enumerate(images):
            row = rows[image.image_id]
            pixels = row.decode()
            panels = [ground_truth_objects(row, manifest)]
            panels += [predicted_objects(each[image.image_id], threshold) for each in predicted]
            sheet = side_by_side(
                [draw_objects(pixels, objects) for objects in panels], _titles(image)
            )
            name = f"{IMAGES_FOLDER}/{word}_{visualization_name(number, image.file_name)}"
            storage.write_bytes(storage.join(folder, name), encode_png(sheet))
            yield name


def _titles(image: ChangedImage) -> list[str]:
    def title(name: str, score: float | None, missed: int, false: int) -> str:
        shown = "" if score is None else f"score {100 * score:.0f}, "
        return f"{name}: {shown}{missed} missed, {false} false"

    return [
        f"ground truth: {image.objects} objects",
        title("A", image.score_a, image.missed_a, image.false_a),
        title("B", image.score_b, image.missed_b, image.false_b),
    ]


def _detections(
    config: RunConfig, model: EvaluatedModel, shards: str, rows: dict[int, ShardRow]
) -> dict[int, DetectionRow]:
    """Return the detections on some images, predicted again if their files are gone."""
    if model.predictions_url is not None:
        try:
            found = read_selected_detections(shards, model.predictions_url, list(rows))
            # The evaluation may have measured predictions in another folder.
            digests = {row.model_digest for row in found.values()}
            if found.keys() == rows.keys() and digests <= {model.table.origin.model_digest}:
                return found
        except storage.StorageError as error:
            logger.info("predicting on the drawn images again: %s", error)
    with resolve_weights(model.table.origin.weights, config) as path:
        predictor = ModelFiles.read(path, config.model).load("cpu")
    images = [InputImage.from_row(row) for row in rows.values()]
    predictions = predict_images(predictor, images, config.evaluate.batch)
    return {
        each.image.image_id: detection_row(each, predictor, score_threshold=0.0)
        for each in predictions
    }


def _write(config: RunConfig, report: ComparisonReport) -> str:
    folder = storage.join(config.output, COMPARISON_FOLDER)
    storage.write_json(storage.join(folder, COMPARISON_JSON), report.to_json())
    url = storage.join(folder, COMPARISON_PAGE)
    storage.write_bytes(url, report.to_markdown().encode())
    return url


def _record(run: TrackedRun, report: ComparisonReport, folder: str) -> None:
    """Record the differences and the report in the MLflow run."""
    client, now_ms = MlflowClient(tracking_uri=run.uri), int(time.time() * 1000)
    values = {
        f"{each.kind}/AP_{name}": value
        for each in report.kinds
        for name, value in (
            ("A", each.ap.value_a),
            ("B", each.ap.value_b),
            ("difference", each.ap.difference),
            ("difference_low", each.ap.low),
            ("difference_high", each.ap.high),
        )
    }
    values |= {"images/better": len(report.better), "images/worse": len(report.worse)}
    client.log_batch(
        run.run_id, metrics=[Metric(key, value, now_ms, 0) for key, value in values.items()]
    )
    client.set_tag(run.run_id, "model_a", report.a.weights)
    client.set_tag(run.run_id, "model_b", report.b.weights)
    for name in (COMPARISON_PAGE, COMPARISON_JSON, *report.pictures):
        with storage.fetch(storage.join(folder, name)) as local:
            artifact_folder = f"{COMPARISON_FOLDER}/{name}".rpartition("/")[0]
            run.artifacts.file(local, artifact_folder)
