"""Twin of the rasterisation of polygons inside boxes.

Shapes: E edges, M cells per axis. Positions are grid lines: fifths of a cell.
"""

import torch
from torch import Tensor

_FARTHEST = 2**30 - 1


def rasterize_polygons(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Twin of `ops_cuda.rasterize_polygons`: pycocotools' rule, edge by edge and column by column.

    Source: pycocotools' rasterisation of polygons (maskApi), which walks along the edges instead.
    """
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool, device=boxes.device)
    polygon_starts, object_starts = polygon_offsets.tolist(), object_offsets.tolist()
    for mask, item, box in zip(masks, objects.tolist(), boxes.double(), strict=True):
        if not box.isfinite().all():
            continue
        cells_per_pixel = side / (box[2:] - box[:2]).clamp(min=0.1)
        for polygon in range(object_starts[item], object_starts[item + 1]):
            outline = vertices[polygon_starts[polygon] : polygon_starts[polygon + 1]].double()
            if outline.isfinite().all():
                cells = (outline - box[:2]) * cells_per_pixel
                mask |= _inside((5 * cells + 0.5).clamp(-_FARTHEST, _FARTHEST).trunc(), side)
    return masks.float()


def _inside(outline: Tensor, side: int) -> Tensor:
    """Cells (M, M) inside an outline (E, 2) on grid lines, float64."""
    following = outline.roll(-1, 0)
    middles = 5 * torch.arange(side, device=outline.device) + 2
    crossed = (torch.minimum(outline, following)[:, :1] <= middles) & (
        torch.maximum(outline, following)[:, :1] > middles
    )
    width, height = (following - outline).abs().T
    longer = (height > width).long()[:, None]
    descends = outline.gather(1, longer) > following.gather(1, longer)
    start = torch.where(descends, following, outline)
    stop = torch.where(descends, outline, following)
    flat = _rows_of_flat_edges(start, stop, middles)
    steep = _rows_of_steep_edges(start, stop, middles)
    y = torch.where(height[:, None] > width[:, None], steep, flat)
    rows = torch.where(y < 3, 0, (y + 2) // 5)  # (E, M): from here downwards the column toggles
    toggled = crossed[..., None] & (rows[..., None] <= torch.arange(side, device=rows.device))
    return (toggled.sum(0) % 2 == 1).T


def _rows_of_flat_edges(start: Tensor, stop: Tensor, middles: Tensor) -> Tensor:
    """Upper grid line (E, M) of the two points around each column's middle; start is left."""
    (x, y), (width, rise) = start.T[..., None], (stop - start).T[..., None]
    slope = rise / width
    return torch.trunc(y + slope * (middles + (slope < 0) - x) + 0.5)


def _rows_of_steep_edges(start: Tensor, stop: Tensor, middles: Tensor) -> Tensor:
    """The same, where start is above: one point per grid line, rounded sideways."""
    (x, y), (run, height) = start.T[..., None], (stop - start).T[..., None]
    slope = run / height
    steps = ((middles + 0.5 - x) * (height / run) + 0.5).trunc()
    reached = (x + slope * steps + 0.5).trunc()
    beyond = torch.where(slope > 0, reached > middles, reached <= middles)
    return torch.sub(y + steps, beyond.long())
