"""Plots of an evaluation as PNG files: precision and recall, calibration, confusion.

Shapes: T IoU thresholds, R recalls, K classes.
"""

import io

import numpy as np
from matplotlib.figure import Figure

from pipeline.evaluate.average_precision import RECALLS
from pipeline.evaluate.calibration import BINS, Calibration
from pipeline.evaluate.confusion import BACKGROUND, ConfusionMatrix
from pipeline.evaluate.image_matches import IOU_THRESHOLDS, Floats

_DPI = 100
_MAX_CLASSES = 25  # of a readable confusion matrix
_MAX_NUMBERS = 12  # more classes: colors only


def plot_precision_recall(table: Floats, title: str) -> bytes:
    """Plot precision against recall, the mean over the classes, at each IoU threshold.

    Args:
        table: (T, R, K) interpolated precision; -1 for classes without objects.
        title: what was measured.
    """
    figure = Figure(figsize=(6, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    measured = table[:, :, (table > -1).all(axis=(0, 1))]
    shades = np.linspace(0.15, 0.85, len(IOU_THRESHOLDS))
    for t, threshold in enumerate(IOU_THRESHOLDS):
        if measured.size:
            curve = measured[t].mean(axis=1)
            color = (shades[t], 0.3, 1 - shades[t])
            axes.plot(
                RECALLS, curve, color=color, label=f"IoU {threshold:.2f}: {100 * curve.mean():.1f}"
            )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    if measured.size:
        axes.legend(title="AP", fontsize=8, loc="upper right")
    return _png(figure)


def plot_calibration(calibration: Calibration, title: str) -> bytes:
    """Plot precision against score, and how many detections have each score."""
    figure = Figure(figsize=(6, 5), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot((0, 1), (0, 1), color="0.6", linestyle="--", label="calibrated")
    measured = calibration.counts > 0
    upper.plot(calibration.scores[measured], calibration.precisions[measured], marker="o")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right (IoU 0.5)")
    upper.set_title(f"{title}: calibration error {100 * calibration.error:.1f}%")
    upper.grid(alpha=0.3)
    upper.legend(fontsize=8)
    centers = (np.arange(BINS) + 0.5) / BINS
    lower.bar(centers, calibration.counts, width=0.9 / BINS, color="0.6")
    lower.set(xlabel="score", ylabel="detections")
    lower.set_yscale("symlog", linthresh=1)
    return _png(figure)


def plot_confusion(matrix: ConfusionMatrix) -> bytes:
    """Plot the confusion matrix; of many classes, those with the most mistakes."""
    wrong = matrix.counts.copy()
    np.fill_diagonal(wrong, 0)
    mistakes = (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MAX_CLASSES])
    indices = np.append(shown, len(matrix.names))
    counts = matrix.counts[np.ix_(indices, indices)]
    names = [*(matrix.names[k] for k in shown), BACKGROUND]
    side = 3.5 + 0.32 * len(names)
    figure = Figure(figsize=(side, side), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(names))
    axes.set_xticks(places, [*names[:-1], "(missed)"], rotation=90, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.set(xlabel="detected class", ylabel="annotated class")
    left_out = len(matrix.names) - len(shown)
    title = "Confusion by boxes\n(color: share of the row)"
    if left_out:
        title += f"; {left_out} classes with fewer mistakes left out"
    axes.set_title(title, fontsize=10)
    if len(names) <= _MAX_NUMBERS:
        for row in places.tolist():
            for column in places.tolist():
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(
                    column,
                    row,
                    counts[row, column],
                    ha="center",
                    va="center",
                    color=color,
                    fontsize=8,
                )
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
