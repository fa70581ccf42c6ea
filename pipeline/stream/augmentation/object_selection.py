"""Select some of the objects of an image.

Shapes: N objects, M selected ones.
"""

from dataclasses import replace

import torch
from torch import Tensor

from model.structures import (
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)


def select_objects(targets: Targets, kept: Tensor) -> Targets:
    """Return some objects, in the given order.

    Args:
        targets: N objects; bitmap masks cannot be selected.
        kept: (M,) int64, their indices.
    """
    masks, points = targets.masks, targets.keypoints
    return replace(
        targets,
        boxes=targets.boxes[kept],
        labels=targets.labels[kept],
        masks=None if masks is None else select_masks(masks, kept),
        keypoints=None if points is None else points[kept],
    )


def select_masks(masks: InstanceMasks, kept: Tensor) -> InstanceMasks:
    """Return the masks of the objects ``kept`` (M,)."""
    match masks:
        case PolygonMasks():
            return _select_polygons(masks, kept)
        case RunLengthMasks():
            return _select_runs(masks, kept)
        case MixedMasks():
            return MixedMasks(
                _select_polygons(masks.polygons, kept), _select_runs(masks.runs, kept)
            )
    raise TypeError(f"masks of type {type(masks).__name__} cannot be selected")


def _select_polygons(masks: PolygonMasks, kept: Tensor) -> PolygonMasks:
    polygons, object_offsets = _ranges(masks.object_offsets, kept)
    vertices, polygon_offsets = _ranges(masks.polygon_offsets, polygons)
    return PolygonMasks(masks.vertices[vertices], polygon_offsets, object_offsets)


def _select_runs(masks: RunLengthMasks, kept: Tensor) -> RunLengthMasks:
    runs, run_offsets = _ranges(masks.run_offsets, kept)
    return RunLengthMasks(
        masks.run_ends[runs], run_offsets, masks.heights[kept], masks.to_canvas[kept]
    )


def _ranges(offsets: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of the kept ranges, one after another, and the offsets among them."""
    starts, stops = offsets[kept], offsets[kept + 1]
    parts = [
        torch.arange(start, stop)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    lengths = torch.cat([torch.zeros(1, dtype=torch.int64), stops - starts])
    rows = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
    return rows, lengths.cumsum(0)
