"""Mask targets rasterized directly from run-length masks.

Shapes: R ROIs, G objects, M mask side, h w canvas pixels under a box.
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

# Cell edges are multiples of 1/4096 pixel, so that all areas are exact integers.
_UNITS_PER_PIXEL = 4096.0
_MAX_CANVAS_SIDE = 2.0**17


def rasterize_rle(
    run_ends: Tensor,
    run_offsets: Tensor,
    heights: Tensor,
    object_indices: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Resample the object of each box to ``side`` x ``side`` cells, set if at least half is mask.

    The areas are exact, for cells smaller and larger than a pixel; cell edges are rounded to 1/4096
    pixel. Outside its canvas an object has no mask.

    Args:
        run_ends: (N,) int64, the end of each run, ascending per object and counted from the start
            of its canvas: the cumulative sum of COCO's counts. Alternating runs of zeros and ones
            go down the columns, zeros first.
        run_offsets: (G + 1,) int64, ascending: object g has the runs
            [run_offsets[g], run_offsets[g + 1]).
        heights: (G,) int64, 1 to 131,072, rows of each object's canvas.
        object_indices: (R,) int64, the object of each box.
        boxes: (R, 4) float, x1 y1 x2 y2, in pixels of the canvas. The mask is flipped where
            x2 < x1 or y2 < y1, so a flipped image needs only flipped boxes. A side shorter than
            0.1 pixel counts as 0.1. A box with NaN or infinity gives an empty mask.
        side: M, cells per axis.

    Returns:
        (R, M, M) float32, 0 or 1.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: an offset, height or object index is out of range (CPU; on CUDA its mask is
            empty or wrong).

    Source: He et al. 2017, section 3.1; detectron2 takes the mean of samples instead of the area.
    """
    require_indices("run_ends", run_ends)
    require_indices("run_offsets", run_offsets)
    require_indices("heights", heights)
    if len(run_offsets) != len(heights) + 1:
        raise ValueError(
            f"run_offsets must have one entry more than heights; got {len(run_offsets)} and "
            f"{len(heights)}"
        )
    require_indices("object_indices", object_indices)
    require_rows("boxes", boxes, 4)
    require_equal_length(object_indices=object_indices, boxes=boxes)
    require_positive("side", side)
    require_one_device(
        run_ends=run_ends,
        run_offsets=run_offsets,
        heights=heights,
        object_indices=object_indices,
        boxes=boxes,
    )
    arguments = (run_ends, run_offsets, heights, object_indices, boxes.float(), side)
    if not compiled_for("rasterize_rle", boxes.device):
        return rasterize_rle_reference(*arguments)
    masks: Tensor = torch.ops.ops_cuda.rasterize_rle(*arguments)
    return masks


@register_fake("rasterize_rle")
def _rasterize_rle_fake(
    run_ends: Tensor,
    run_offsets: Tensor,
    heights: Tensor,
    object_indices: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], side, side)


register_autocast_to_float32("rasterize_rle")


def rasterize_rle_reference(
    run_ends: Tensor,
    run_offsets: Tensor,
    heights: Tensor,
    object_indices: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Compute the areas as two matrix products with the pixels under each box."""
    masks = boxes.new_zeros(len(boxes), side, side)
    starts, rows = run_offsets.tolist(), heights.tolist()
    for mask, index, box in zip(masks, object_indices.tolist(), boxes.double(), strict=True):
        ends = run_ends[starts[index] : starts[index + 1]]
        if not len(ends) or not box.isfinite().all():
            continue
        x_edges, y_edges = _cell_edges(box[[0, 2]], side), _cell_edges(box[[1, 3]], side)
        x_pixels = _pixels_under(x_edges, -(-int(ends[-1]) // rows[index]))
        y_pixels = _pixels_under(y_edges, rows[index])
        positions = x_pixels[:, None] * rows[index] + y_pixels
        # ones are the runs of odd index
        bitmap = torch.searchsorted(ends, positions, right=True) % 2
        bitmap = bitmap * (positions < ends[-1])
        # exact: integers below 2**53
        area = _overlaps(x_edges, x_pixels) @ bitmap.double() @ _overlaps(y_edges, y_pixels).T
        cell_area = x_edges.diff()[:, None] * y_edges.diff()
        flipped = [axis for axis in (0, 1) if box[axis + 2] < box[axis]]
        mask[:] = ((area > 0) & (2 * area >= cell_area)).flip(flipped).T
    return masks


def _cell_edges(ends: Tensor, side: int) -> Tensor:
    """Return the cell edges of an axis, ascending, (M + 1,) in 1/4096 pixel."""
    low, extent = ends.min(), (ends[1] - ends[0]).abs().clamp(min=0.1)
    steps = torch.arange(side + 1, device=ends.device, dtype=ends.dtype)
    units = (low + extent * steps / side) * _UNITS_PER_PIXEL + 0.5
    limit = _UNITS_PER_PIXEL * _MAX_CANVAS_SIDE
    return units.clamp(-limit, limit).floor()


def _pixels_under(edges: Tensor, extent: int) -> Tensor:
    """Return the pixels of a canvas axis of length ``extent`` that lie under the cells."""
    first, end = int(edges[0] // _UNITS_PER_PIXEL), int(-(-edges[-1] // _UNITS_PER_PIXEL))
    first = min(max(first, 0), extent)
    return torch.arange(first, max(first, min(end, extent)), device=edges.device)


def _overlaps(edges: Tensor, pixels: Tensor) -> Tensor:
    """Return the length of each cell over each pixel: (M, h) or (M, w), in 1/4096 pixel."""
    begin, end = pixels * _UNITS_PER_PIXEL, (pixels + 1) * _UNITS_PER_PIXEL
    return (torch.minimum(edges[1:, None], end) - torch.maximum(edges[:-1, None], begin)).clamp(0)
