"""Write what an evaluation shows beside its metrics: plots, the table of classes, worst images."""

import json
from dataclasses import dataclass, field

import numpy as np

from model.drawing import draw_objects
from pipeline import storage
from pipeline.draw import encode_png, side_by_side
from pipeline.evaluate.average_precision import precision_table
from pipeline.evaluate.calibration import score_calibration
from pipeline.evaluate.class_table import CLASS_TABLE, class_table
from pipeline.evaluate.comparison_images import ground_truth_objects
from pipeline.evaluate.confusion import ConfusionMatrix
from pipeline.evaluate.evaluation_plots import (
    plot_calibration,
    plot_confusion,
    plot_precision_recall,
)
from pipeline.evaluate.image_table import ImageTable
from pipeline.evaluate.metrics import Metrics
from pipeline.evaluate.report import KIND_TITLES
from pipeline.evaluate.selected_images import read_selected_detections, read_selected_rows
from pipeline.infer.visualizations import IMAGES_FOLDER, predicted_objects, visualization_name
from pipeline.shards.manifest import read_manifest

PLOTS_FOLDER = "plots"
CONFUSION_JSON = "confusion.json"


@dataclass(frozen=True)
class EvaluationFiles:
    """Paths relative to the folder of the evaluation.

    Args:
        tables: tables that other programs can read.
        plots: PNG files.
        worst: title -> images with ground truth and predictions side by side.
        calibration_error: kind -> expected calibration error of the scores.
    """

    tables: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    worst: dict[str, tuple[str, ...]] = field(default_factory=dict)
    calibration_error: dict[str, float] = field(default_factory=dict)

    def all(self) -> tuple[str, ...]:
        """Return the paths of all files."""
        return (*self.tables, *self.plots, *(path for each in self.worst.values() for path in each))

    def metrics(self) -> dict[str, float]:
        """Return the calibration errors as metrics."""
        return {f"{kind}/calibration_error": e for kind, e in self.calibration_error.items()}


def write_evaluation_files(
    folder: str,
    predictions_url: str,
    table: ImageTable,
    metrics: Metrics,
    confusion: ConfusionMatrix | None,
    worst_images: int,
) -> EvaluationFiles:
    """Write the files of an evaluation that has per-image matches.

    Args:
        folder: folder of the evaluation.
        predictions_url: folder of the prediction files.
        table: the per-image table.
        metrics: the metrics.
        confusion: the confusion matrix; None if there is none.
        worst_images: images to draw with the most missed objects, and as many with the most false
            positives.
    """
    plots: dict[str, bytes] = {}
    errors: dict[str, float] = {}
    for kind, matches in table.matches.items():
        title = KIND_TITLES[kind]
        plots[f"precision_recall_{kind}"] = plot_precision_recall(precision_table(matches), title)
        calibration = score_calibration(matches)
        if np.isfinite(calibration.error):
            plots[f"calibration_{kind}"] = plot_calibration(calibration, title)
            errors[kind] = calibration.error
    tables = {
        CLASS_TABLE: class_table(metrics.per_class, table.matches, table.origin.score_threshold)
    }
    if confusion is not None:
        plots["confusion"] = plot_confusion(confusion)
        keys = ("is", "detected_as", "count")
        rows = [dict(zip(keys, row, strict=True)) for row in confusion.confusions()]
        tables[CONFUSION_JSON] = json.dumps(rows, indent=1)
    paths = {f"{PLOTS_FOLDER}/{name}.png": content for name, content in plots.items()}
    for path, content in paths.items():
        storage.write_bytes(storage.join(folder, path), content)
    for path, text in tables.items():
        storage.write_bytes(storage.join(folder, path), text.encode())
    worst = draw_worst_images(folder, predictions_url, table, worst_images)
    return EvaluationFiles(tuple(tables), tuple(paths), worst, errors)


def draw_worst_images(
    folder: str, predictions_url: str, table: ImageTable, count: int
) -> dict[str, tuple[str, ...]]:
    """Draw the images with the most missed objects and with the most false positives.

    Returns:
        Title -> paths relative to ``folder``; images without such mistakes are not drawn.
    """
    kind = next((each for each in ("segm", "bbox") if each in table.matches), None)
    if kind is None or count == 0:
        return {}
    summary = table.summary(kind)
    chosen = {
        "missed": _largest(summary.missed, count, table),
        "false": _largest(summary.false_positives, count, table),
    }
    ids = {int(table.image_ids[n]) for indices in chosen.values() for n in indices}
    shards = table.origin.shards
    rows, manifest = read_selected_rows(shards, ids), read_manifest(shards)
    detections = read_selected_detections(shards, predictions_url, ids)
    threshold = table.origin.score_threshold
    drawn: dict[str, list[str]] = {word: [] for word in chosen}
    for word, indices in chosen.items():
        for number, n in enumerate(indices):
            row, detected = rows[int(table.image_ids[n])], detections[int(table.image_ids[n])]
            pixels = row.decode()
            titles = [
                f"ground truth: {summary.objects[n]} objects",
                f"score >= {threshold:g}: {summary.missed[n]} missed, "
                f"{summary.false_positives[n]} false",
            ]
            panels = (
                ground_truth_objects(row, manifest),
                predicted_objects(detected, threshold),
            )
            sheet = side_by_side([draw_objects(pixels, each) for each in panels], titles)
            name = visualization_name(number, row.file_name)
            path = f"{IMAGES_FOLDER}/most_{word}_{name}"
            storage.write_bytes(storage.join(folder, path), encode_png(sheet))
            drawn[word].append(path)
    titles_of = {"missed": "Most missed objects", "false": "Most false positives"}
    return {titles_of[word]: tuple(paths) for word, paths in drawn.items() if paths}


def _largest(values: np.ndarray, count: int, table: ImageTable) -> list[int]:
    """Return the indices of the largest values above 0, of images that could be read."""
    order = np.argsort(-values, kind="stable").tolist()
    return [n for n in order if values[n] > 0 and n not in table.errors][:count]
