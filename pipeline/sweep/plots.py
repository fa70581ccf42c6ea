"""Plots of a sweep, as PNG files."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import SearchDimension, SweepConfig
from pipeline.sweep.facts import TrialFacts
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.proposals import metric_of
from pipeline.sweep.search_space import format_value, short_names

_DPI = 100
_COLORS = mpl.colormaps["viridis"]


def plot_curves(sweep: SweepConfig, trials: Sequence[TrialRecord]) -> bytes:
    """Plot the metric over the images seen; a cross where a trial was stopped or failed."""

    def draw(axes: Axes) -> None:
        for index, trial in enumerate(trials):
            if not trial.history:
                continue
            images, values = zip(*trial.history, strict=True)
            color = f"C{index % 10}"
            axes.plot(images, values, ".-", color=color, label=_curve_label(trial))
            if trial.status in ("stopped", "failed"):
                axes.plot(images[-1], values[-1], "x", color=color, markersize=10)
        axes.plot([], [], "x", color="0.3", label="stopped early or failed")
        axes.set_xlabel("images seen")
        axes.set_ylabel(sweep.metric)
        axes.legend(fontsize=7, ncols=2)

    return _figure(draw)


def _curve_label(trial: TrialRecord) -> str:
    return f"trial {trial.trial_id}"


def plot_rate_by_batch(
    sweep: SweepConfig, trials: Sequence[TrialRecord], facts: Mapping[str, TrialFacts]
) -> bytes:
    """Plot the metric over the learning rate, in a color per batch size; stopped trials hollow."""

    def draw(axes: Axes) -> None:
        batches = sorted({facts[trial.trial_id].batch for trial in trials})
        for index, batch in enumerate(batches):
            group = [trial for trial in trials if facts[trial.trial_id].batch == batch]
            for finished in (True, False):
                part = [trial for trial in group if (trial.status == "finished") == finished]
                axes.plot(
                    [facts[trial.trial_id].lr for trial in part],
                    [metric_of(trial, sweep.metric) for trial in part],
                    "o",
                    color=f"C{index}",
                    fillstyle="full" if finished else "none",
                    label=f"batch {batch}{'' if finished else ', not to the end'}"
                    if part
                    else None,
                )
        axes.set_xscale("log")
        axes.set_xlabel("learning rate after the warm-up, scaled to the batch")
        axes.set_ylabel(sweep.metric)
        axes.legend(fontsize=8)

    return _figure(draw)


def plot_parallel_coordinates(sweep: SweepConfig, trials: Sequence[TrialRecord]) -> bytes:
    """Plot each trial as a line through its values and its metric; the brighter, the better.

    Stopped trials are dashed. A line has a gap where a key does not apply to a trial.
    """
    keys = list(sweep.space)
    measured = [t for t in trials if math.isfinite(metric_of(t, sweep.metric))]
    metrics = [metric_of(trial, sweep.metric) for trial in measured]
    low, high = min(metrics, default=0.0), max(metrics, default=1.0)

    def draw(axes: Axes) -> None:
        names = short_names(keys)
        for trial, metric in zip(measured, metrics, strict=True):
            share = (metric - low) / (high - low) if high > low else 0.5
            heights = [
                _height(sweep.space[key], trial.values[key]) if key in trial.values else math.nan
                for key in keys
            ]
            good = share if sweep.mode == "max" else 1 - share
            style = "-" if trial.status == "finished" else "--"
            axes.plot([*heights, share], style, color=_COLORS(good), marker="o", markersize=3)
        for place, key in enumerate(keys):
            for height, text in _ticks(sweep.space[key]):
                axes.text(place, height, f"{text} ", fontsize=7, ha="right", va="center")
        for height, value in ((0.0, low), (1.0, high)):
            axes.text(len(keys), height, f" {value:.4g}", fontsize=7, va="center")
        axes.set_xticks(range(len(keys) + 1), [*names.values(), sweep.metric], fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.4, len(keys) + 0.4)

    return _figure(draw, width=max(8.0, 1.6 * (len(keys) + 1)))


def _height(dimension: SearchDimension, value: Any) -> float:
    """Return the height of a value on its axis, 0 to 1."""
    if dimension.is_list:
        last = max(len(dimension.values) - 1, 1)
        numbers = [each for each in dimension.values if type(each) in (int, float)]
        if len(numbers) == len(dimension.values):
            return sorted(numbers).index(value) / last
        return dimension.position(value) / last
    low, high = dimension.bounds
    if dimension.is_logarithmic:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _ticks(dimension: SearchDimension) -> list[tuple[float, str]]:
    if dimension.is_list:
        return [(_height(dimension, value), format_value(value)) for value in dimension.values]
    return [(float(place), format_value(bound)) for place, bound in enumerate(dimension.bounds)]


def plot_importance(shares: Mapping[str, float]) -> bytes:
    """Plot the importance of each key, the largest on top."""

    def draw(axes: Axes) -> None:
        names = short_names(list(shares))
        axes.barh(np.arange(len(shares)), list(shares.values()))
        axes.set_yticks(np.arange(len(shares)), [names[key] for key in shares])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("importance")

    return _figure(draw, height=max(2.0, 0.5 * len(shares) + 1))


def _figure(draw: Callable[[Axes], None], width: float = 8.0, height: float = 4.5) -> bytes:
    """Return the PNG file of one pair of axes; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
