"""Twin of the rasterisation of run-length masks inside boxes.

Shapes: M cells per axis, h w pixels of the canvas under a box.
"""

import torch
from torch import Tensor

_PIXEL = 4096.0
_LONGEST_CANVAS = 2.0**17


def rasterize_rle(
    run_ends: Tensor,
    run_offsets: Tensor,
    heights: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Twin of `ops_cuda.rasterize_rle`: overlaps with the pixels under the box, as two products."""
    masks = boxes.new_zeros(len(boxes), side, side)
    starts, rows = run_offsets.tolist(), heights.tolist()
    for mask, item, box in zip(masks, objects.tolist(), boxes.double(), strict=True):
        ends = run_ends[starts[item] : starts[item + 1]]
        if not len(ends) or not box.isfinite().all():
            continue
        x_edges, y_edges = _cell_edges(box[[0, 2]], side), _cell_edges(box[[1, 3]], side)
        x_pixels = _pixels_under(x_edges, -(-int(ends[-1]) // rows[item]))
        y_pixels = _pixels_under(y_edges, rows[item])
        places = x_pixels[:, None] * rows[item] + y_pixels
        # ones are the runs of odd number
        drawn = torch.searchsorted(ends, places, right=True) % 2
        drawn = drawn * (places < ends[-1])
        # exact: whole numbers below 2**53
        area = _overlaps(x_edges, x_pixels) @ drawn.double() @ _overlaps(y_edges, y_pixels).T
        cell = x_edges.diff()[:, None] * y_edges.diff()
        turned = [axis for axis in (0, 1) if box[axis + 2] < box[axis]]
        mask[:] = ((area > 0) & (2 * area >= cell)).flip(turned).T
    return masks


def _cell_edges(ends: Tensor, side: int) -> Tensor:
    """Where the cells of an axis begin and end, ascending, (M + 1,) in 1/4096 pixel."""
    low, extent = ends.min(), (ends[1] - ends[0]).abs().clamp(min=0.1)
    steps = torch.arange(side + 1, device=ends.device, dtype=ends.dtype)
    units = (low + extent * steps / side) * _PIXEL + 0.5
    return units.clamp(-_PIXEL * _LONGEST_CANVAS, _PIXEL * _LONGEST_CANVAS).floor()


def _pixels_under(edges: Tensor, extent: int) -> Tensor:
    """The pixels of a canvas axis that lie under the cells."""
    first, end = int(edges[0] // _PIXEL), int(-(-edges[-1] // _PIXEL))
    first = min(max(first, 0), extent)
    return torch.arange(first, max(first, min(end, extent)), device=edges.device)


def _overlaps(edges: Tensor, pixels: Tensor) -> Tensor:
    """How much of each cell lies over each pixel: (M, h) or (M, w)."""
    begin, end = pixels * _PIXEL, (pixels + 1) * _PIXEL
    return (torch.minimum(edges[1:, None], end) - torch.maximum(edges[:-1, None], begin)).clamp(0)
