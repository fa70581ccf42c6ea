"""The table of the classes of an evaluation, as a CSV file."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluate.image_matches import ImageMatches
from pipeline.evaluate.metrics import ClassMetrics

CLASS_TABLE = "classes.csv"
"""Name of the file in the folder of an evaluation."""


def class_table(
    per_class: Sequence[ClassMetrics], matches: Mapping[str, ImageMatches], score_threshold: float
) -> str:
    """Return one line for each class: its objects, AP, and counts of confident detections.

    Args:
        per_class: the metrics of each class.
        matches: kind -> matches.
        score_threshold: score from which on a detection is confident.
    """
    counts = {kind: _counts(each, score_threshold) for kind, each in matches.items()}
    metrics = list(dict.fromkeys(name for row in per_class for name in row.values))
    words = ("matched", "missed", "false positives")
    columns = [*metrics, *(f"{kind} {word}" for kind in counts for word in words)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", "objects", *columns])
    for row in per_class:
        values = [_cell(row.values.get(name, -1.0)) for name in metrics]
        numbers = [
            number for kind in counts for number in counts[kind].get(row.category_id, ("", "", ""))
        ]
        writer.writerow([row.name, row.objects, *values, *numbers])
    return file.getvalue()


def _counts(matches: ImageMatches, score_threshold: float) -> dict[int, tuple[int, int, int]]:
    """Return category id -> matched and missed objects, and false positives, at IoU 0.5."""
    size = len(matches.class_ids)
    confident = matches.scores >= score_threshold
    true, ignored = matches.matched[:, 0], matches.ignored[:, 0]
    objects = np.bincount(matches.object_classes, minlength=size)
    matched = np.bincount(matches.classes[confident & true], minlength=size)
    false = np.bincount(matches.classes[confident & ~true & ~ignored], minlength=size)
    table = np.stack([matched, objects - matched, false], axis=1).tolist()
    return {
        class_id: tuple(row)
        for class_id, row in zip(matches.class_ids.tolist(), table, strict=True)
    }


def _cell(value: float) -> str:
    """Format a metric; nothing for -1, nothing to measure."""
    return "" if value < 0 else f"{value:.4f}"
