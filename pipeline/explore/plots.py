"""Plots of the distributions in a dataset, as PNG files.

Shapes: N images, G objects.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from pipeline.explore.annotations import Annotations
from pipeline.explore.class_counts import ClassCount, ClassRow
from pipeline.shards.aspect_bins import ASPECT_EDGES

COCO_SIDES = (32, 96)
"""Square roots of the areas from which on COCO calls objects medium and large."""

_MAX_BARS = 100  # more classes are a curve
_BINS = 40
_DPI = 100
_GRAY = "0.6"

Splits = Mapping[str, Annotations]
"""Split -> its annotations without crowd regions."""


def plot_classes(rows: Sequence[ClassRow], splits: Sequence[str]) -> bytes:
    """Plot the objects of each class, the most frequent first."""
    ranked = sorted(rows, key=lambda row: -sum(n.objects for n in row.of_split.values()))
    counts = {
        split: [row.of_split.get(split, ClassCount()).objects for row in ranked] for split in splits
    }
    bars = len(ranked) <= _MAX_BARS

    def draw(axes: Axes) -> None:
        places = np.arange(len(ranked))
        for index, split in enumerate(splits):
            if bars:
                height = 0.8 / len(splits)
                axes.barh(places + index * height, counts[split], height, label=split)
            else:
                axes.step(places + 1, counts[split], where="mid", label=split)
        if bars:
            axes.set_yticks(places + 0.4 - 0.4 / len(splits), [row.name for row in ranked])
            axes.tick_params(axis="y", labelsize=8)
            axes.invert_yaxis()
            axes.set_xscale("symlog", linthresh=1)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("objects")
        else:
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("classes, the most frequent first")
            axes.set_ylabel("objects")

    return _figure(draw, height=max(3.0, 0.18 * len(ranked)) if bars else 4.0)


def plot_object_sizes(splits: Splits, short_side: int, long_side: int) -> bytes:
    """Plot the square roots of the objects' areas, in the image and in the detector's input.

    Args:
        splits: the annotations.
        short_side: short side of the input, pixels.
        long_side: largest long side of the input, pixels.
    """

    def draw(axes: Axes) -> None:
        for color, (split, objects) in zip(_colors(), splits.items(), strict=False):
            sides = np.sqrt(objects.areas)
            scale = input_scales(objects.sizes, short_side, long_side)[objects.image]
            _log_histogram(axes, sides, color=color, label=f"{split}, in the image")
            resized = f"{split}, at short side {short_side}"
            _log_histogram(axes, sides * scale, color=color, linestyle=":", label=resized)
        for side in COCO_SIDES:
            axes.axvline(side, color=_GRAY, linewidth=0.8)
        axes.set_xlabel("square root of the area, pixels (lines: COCO's medium and large)")
        axes.set_ylabel("share of the objects")

    return _figure(draw)


def plot_box_shapes(splits: Splits) -> bytes:
    """Plot height over width of the boxes, the ratio that anchors are given in."""

    def draw(axes: Axes) -> None:
        for color, (split, objects) in zip(_colors(), splits.items(), strict=False):
            width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T
            _log_histogram(axes, height / width, color=color, label=split)
        axes.set_xlabel("height over width of the boxes")
        axes.set_ylabel("share of the objects")

    return _figure(draw)


def plot_image_shapes(splits: Splits) -> bytes:
    """Plot width over height of the images, with the borders of the aspect bins of batches."""

    def draw(axes: Axes) -> None:
        for color, (split, objects) in zip(_colors(), splits.items(), strict=False):
            height, width = objects.sizes.T
            _log_histogram(axes, width / height, color=color, label=split)
        for edge in ASPECT_EDGES:
            axes.axvline(edge, color=_GRAY, linewidth=0.8)
        axes.set_xticks(ASPECT_EDGES, [f"{edge:g}" for edge in ASPECT_EDGES])
        axes.set_xlabel("width over height of the images (lines: borders of the aspect bins)")
        axes.set_ylabel("share of the images")

    return _figure(draw)


def plot_objects_per_image(splits: Splits) -> bytes:
    """Plot how many objects the images have."""

    def draw(axes: Axes) -> None:
        for color, (split, objects) in zip(_colors(), splits.items(), strict=False):
            per_image = objects_per_image(objects)
            values, counts = np.unique(per_image, return_counts=True)
            shares = counts / max(1, len(per_image))
            axes.plot(values, shares, ".-", color=color, label=split)
        axes.set_xscale("symlog", linthresh=10)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("objects in an image")
        axes.set_ylabel("share of the images")

    return _figure(draw)


def objects_per_image(objects: Annotations) -> NDArray[np.int64]:
    """Return the number of objects of each image, (N,)."""
    return np.bincount(objects.image, minlength=len(objects.sizes))


def input_scales(sizes: NDArray[np.int64], short_side: int, long_side: int) -> NDArray[np.float64]:
    """Return how much each image is resized for the detector, (N,), before rounding."""
    scales: NDArray[np.float64] = np.minimum(
        short_side / sizes.min(axis=1, initial=2**31), long_side / sizes.max(axis=1, initial=1)
    )
    return scales


def _colors() -> list[str]:
    return ["tab:blue", "tab:orange"]


def _log_histogram(
    axes: Axes, values: NDArray[np.float64], color: str, label: str, linestyle: str = "-"
) -> None:
    """Draw the shares of the values in bins of equal ratio."""
    positive = values[values > 0]
    if not len(positive):
        return
    edges = np.geomspace(positive.min() / 1.05, positive.max() * 1.05, _BINS + 1)
    counts, _ = np.histogram(positive, edges)
    axes.stairs(counts / len(positive), edges, color=color, label=label, linestyle=linestyle)
    axes.set_xscale("log")
    # Powers of ten alone are too few: sizes and ratios span one or two.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _figure(draw: Callable[[Axes], None], height: float = 4.0) -> bytes:
    """Return the PNG file of one pair of axes; ``height`` in inches."""
    figure = Figure(figsize=(8, height), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
