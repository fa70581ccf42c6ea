"""Mask targets rasterized directly from polygons.

Shapes: R ROIs, G objects, M mask side, E edges.
"""

import torch
from torch import Tensor

from ops_cuda.checks import (
    require_equal_length,
    require_indices,
    require_one_device,
    require_positive,
    require_rows,
)
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake

_MAX_GRID_LINE = 2**30 - 1


def rasterize_polygons(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    object_indices: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Rasterize the object of each box on ``side`` x ``side`` cells of the box, as pycocotools.

    The polygons are moved and scaled into the box in double precision, each is rasterized by
    pycocotools' rule (vertices on fifths of a cell; even-odd), and the object is their union: the
    targets of maskrcnn-benchmark and detectron2, bit for bit while the vertices lie within a
    million cells of the box. Nothing outside the box is drawn.

    Args:
        vertices: (N, 2) float, x y pixels, in the frame of the boxes. A polygon with a NaN or an
            infinity draws nothing; one of fewer than three vertices has no area.
        polygon_offsets: (polygons + 1,) int64, ascending: polygon p has the vertices
            [polygon_offsets[p], polygon_offsets[p + 1]).
        object_offsets: (G + 1,) int64, ascending into polygons.
        object_indices: (R,) int64, the object of each box.
        boxes: (R, 4) float, x1 y1 x2 y2. A side shorter than 0.1 pixel, or negative, counts as 0.1
            starting at x1 or y1 (detectron2's rule). A box with NaN or infinity gives an empty
            mask.
        side: M, cells per axis.

    Returns:
        (R, M, M) float32, 0 or 1.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: an offset or object index is out of range (CPU; on CUDA its mask is empty).

    Source: He et al. 2017, section 3.1: the target is the mask inside the ROI; pycocotools.
    """
    require_rows("vertices", vertices, 2)
    require_rows("boxes", boxes, 4)
    for name, offsets in (("polygon_offsets", polygon_offsets), ("object_offsets", object_offsets)):
        require_indices(name, offsets)
        if len(offsets) == 0:
            raise ValueError(f"{name} must start with 0; got no entries")
    require_indices("object_indices", object_indices)
    require_equal_length(object_indices=object_indices, boxes=boxes)
    require_positive("side", side)
    require_one_device(
        vertices=vertices,
        polygon_offsets=polygon_offsets,
        object_offsets=object_offsets,
        object_indices=object_indices,
        boxes=boxes,
    )
    polygons = (vertices.float(), polygon_offsets, object_offsets)
    arguments = (*polygons, object_indices, boxes.float(), side)
    if not compiled_for("rasterize_polygons", boxes.device):
        return rasterize_polygons_reference(*arguments)
    masks: Tensor = torch.ops.ops_cuda.rasterize_polygons(*arguments)
    return masks


@register_fake("rasterize_polygons")
def _rasterize_polygons_fake(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    object_indices: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], side, side)


register_autocast_to_float32("rasterize_polygons")


def rasterize_polygons_reference(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    object_indices: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Apply pycocotools' rule edge by edge and column by column.

    Source: the rasterization of polygons in pycocotools (maskApi), which steps along the edges
    instead.
    """
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool, device=boxes.device)
    polygon_starts, object_starts = polygon_offsets.tolist(), object_offsets.tolist()
    for mask, index, box in zip(masks, object_indices.tolist(), boxes.double(), strict=True):
        if not box.isfinite().all():
            continue
        cells_per_pixel = side / (box[2:] - box[:2]).clamp(min=0.1)
        for polygon in range(object_starts[index], object_starts[index + 1]):
            outline = vertices[polygon_starts[polygon] : polygon_starts[polygon + 1]].double()
            if outline.isfinite().all():
                cells = (outline - box[:2]) * cells_per_pixel
                grid_lines = (5 * cells + 0.5).clamp(-_MAX_GRID_LINE, _MAX_GRID_LINE).trunc()
                mask |= _cells_inside(grid_lines, side)
    return masks.float()


def _cells_inside(outline: Tensor, side: int) -> Tensor:
    """Return the cells (M, M) inside an outline (E, 2) float64, in grid lines: fifths of a cell."""
    following = outline.roll(-1, 0)
    middles = 5 * torch.arange(side, device=outline.device) + 2
    crossed = (torch.minimum(outline, following)[:, :1] <= middles) & (
        torch.maximum(outline, following)[:, :1] > middles
    )
    width, height = (following - outline).abs().T
    longer_axis = (height > width).long()[:, None]
    descends = outline.gather(1, longer_axis) > following.gather(1, longer_axis)
    start = torch.where(descends, following, outline)
    stop = torch.where(descends, outline, following)
    flat = _rows_of_flat_edges(start, stop, middles)
    steep = _rows_of_steep_edges(start, stop, middles)
    y = torch.where(height[:, None] > width[:, None], steep, flat)
    rows = torch.where(y < 3, 0, (y + 2) // 5)  # (E, M): from here down the column toggles
    toggled = crossed[..., None] & (rows[..., None] <= torch.arange(side, device=rows.device))
    return (toggled.sum(0) % 2 == 1).T


def _rows_of_flat_edges(start: Tensor, stop: Tensor, middles: Tensor) -> Tensor:
    """Return the upper grid line (E, M) of the two points around each column's middle.

    ``start`` is the left end of each edge.
    """
    (x, y), (width, rise) = start.T[..., None], (stop - start).T[..., None]
    slope = rise / width
    return torch.trunc(y + slope * (middles + (slope < 0) - x) + 0.5)


def _rows_of_steep_edges(start: Tensor, stop: Tensor, middles: Tensor) -> Tensor:
    """Return the same for edges with one point per row of the grid, rounded sideways.

    ``start`` is the upper end of each edge.
    """
    (x, y), (run, height) = start.T[..., None], (stop - start).T[..., None]
    slope = run / height
    steps = ((middles + 0.5 - x) * (height / run) + 0.5).trunc()
    reached = (x + slope * steps + 0.5).trunc()
    beyond = torch.where(slope > 0, reached > middles, reached <= middles)
    return torch.sub(y + steps, beyond.long())
