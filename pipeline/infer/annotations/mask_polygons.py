"""Masks as polygons: what people edit in labeling tools.

A hole is joined to the outline around it by a cut of no width, because neither COCO nor labeling
tools have polygons with holes. Shapes: H W pixels, P points.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from shapely import Polygon

Points = NDArray[np.float64]

_PER_THICKNESS = 0.02
_EXACT, _COARSEST = 0.25, 2.0  # pixels; with the first a polygon covers its mask's pixels exactly
_DIGITS = 2


@dataclass(frozen=True)
class Outline:
    """An object's outline.

    Args:
        polygons: one for each connected part of the mask, as `mask_polygons` returns them.
        pixels: number of pixels of the mask.
    """

    polygons: list[Points]
    pixels: int

    @classmethod
    def of(cls, mask: NDArray[np.uint8]) -> "Outline":
        """Return the outline of a mask, (H, W), 1 inside."""
        return cls(mask_polygons(mask), int(mask.sum()))

    def flat(self) -> list[list[float]]:
        """Return the polygons as COCO has them: x and y in turn."""
        return [polygon.ravel().tolist() for polygon in self.polygons]


def mask_polygons(mask: NDArray[np.uint8]) -> list[Points]:
    """Return the outlines of a mask, one polygon for each of its connected parts.

    Outlines are simplified (Douglas and Peucker 1973) by a fiftieth of the thickness of the part,
    twice its area per perimeter, but at most `_COARSEST`. Small and thin parts are exact.

    Args:
        mask: (H, W), nonzero inside.

    Returns:
        (P, 2) x and y in pixels, where pixel (x, y) covers [x, x + 1) x [y, y + 1); not closed.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    window = mask[top : rows[-1] + 1, left : columns[-1] + 1] != 0
    polygons = []
    for part in _parts(window):
        thickness = 2 * part.area / part.length
        simple = part.simplify(float(np.clip(_PER_THICKNESS * thickness, _EXACT, _COARSEST)))
        holes = [np.asarray(hole.coords) for hole in simple.interiors]
        outline = _join(np.asarray(simple.exterior.coords), holes)[:-1]
        polygons.append((outline + np.array([left, top])).round(_DIGITS))
    return polygons


def _parts(window: NDArray[np.bool_]) -> Iterator[Polygon]:
    """Yield the connected parts of a mask, with their holes."""
    # The contour runs between the centers of pixels, which are at + 0.5.
    generator = contour_generator(
        z=np.pad(window, 1).astype(np.float64), fill_type=FillType.OuterOffset
    )
    for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True):
        outlines = [points[start:end] - 0.5 for start, end in itertools.pairwise(offsets)]
        yield Polygon(outlines[0], outlines[1:])


def _join(outline: Points, holes: list[Points]) -> Points:
    """Insert each hole into the outline at its nearest point; all are closed."""
    if not holes:
        return outline
    starts = [int(hole[:-1, 0].argmin()) for hole in holes]
    corners = np.array([hole[start] for hole, start in zip(holes, starts, strict=True)])
    distances = ((outline[:, None] - corners) ** 2).sum(axis=2)
    cuts: dict[int, list[Points]] = {}
    for hole, start, at in zip(holes, starts, distances.argmin(axis=0).tolist(), strict=True):
        around = np.roll(hole[:-1], -start, axis=0)
        cuts.setdefault(at, []).extend([around, around[:1], outline[at : at + 1]])
    runs = [run for at, point in enumerate(outline) for run in (point[None], *cuts.get(at, ()))]
    return np.concatenate(runs)
