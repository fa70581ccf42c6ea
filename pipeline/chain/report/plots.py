"""Line plots as SVG text, whose colors come from the page's style."""

import html
import math
from collections.abc import Mapping, Sequence

from pipeline.chain.report.content import Curve

# Of the drawing, in its own units; the page scales it.
_WIDTH, _HEIGHT = 480.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 24.0, 12.0, 40.0
_TICKS = 5

COLORS = 6
"""Number of line colors in the page's style; further lines use them again, dashed."""


def line_plot(title: str, curves: Mapping[str, Curve], x_label: str) -> str:
    """Return a plot with its legend as HTML; values that are not finite are left out.

    Args:
        title: heading of the plot.
        curves: name -> points.
        x_label: name of the horizontal axis.
    """
    finite = {
        name: [(x, y) for x, y in curve if math.isfinite(y)] for name, curve in curves.items()
    }
    drawn = {name: points for name, points in finite.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    frame = _Frame((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    lines = [
        f'<polyline class="{line_class(n)}" points="{frame.path(points)}"/>'
        for n, points in enumerate(drawn.values())
    ]
    legend = "".join(
        f'<span class="key"><svg class="swatch" viewBox="0 0 20 4" aria-hidden="true">'
        f'<line class="{line_class(n)}" x1="0" y1="2" x2="20" y2="2"/></svg>'
        f"{html.escape(name)}</span>"
        for n, name in enumerate(drawn)
    )
    label = f"{title}: {', '.join(drawn)}"
    return (
        f'<figure class="plot"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">'
        f"{_axes(frame, x_ticks, y_ticks, x_label)}{''.join(lines)}</svg>"
        f'<div class="legend">{legend}</div></figure>'
    )


def line_class(index: int) -> str:
    """Return the style of a line: the colors in turn, then the same ones dashed."""
    dashed = " dashed" if index >= COLORS else ""
    return f"line c{index % COLORS}{dashed}"


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers that enclose a range, at most 8."""
    if low == high:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step *= next((m for m in (1, 2, 5) if (high - low) / (step * m) <= _TICKS), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


class _Frame:
    """Maps values to the drawing."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self._xs, self._ys = xs, ys

    def x(self, value: float) -> float:
        low, high = self._xs
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._ys
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    parts = [
        f'<line class="grid" x1="{_LEFT:g}" y1="{frame.y(tick):.1f}" '
        f'x2="{_WIDTH - _RIGHT:g}" y2="{frame.y(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6:g}" y="{frame.y(tick) + 4:.1f}" '
        f'text-anchor="end">{number(tick)}</text>'
        for tick in y_ticks
    ]
    parts += [
        f'<text class="tick" x="{frame.x(tick):.1f}" y="{bottom + 16:g}" '
        f'text-anchor="middle">{number(tick)}</text>'
        for tick in x_ticks
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle:g}" y="{_HEIGHT - 6:g}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    return "".join(parts)


def number(value: float) -> str:
    """Format a number of an axis: 0.02, 1500, 90k, 1e-05."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"
