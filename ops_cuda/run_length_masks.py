"""Mask targets straight from run-length masks."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import (
    require_equal_length,
    require_indices,
    require_one_device,
    require_positive,
    require_rows,
)


def rasterize_rle(
    run_ends: Tensor,
    run_offsets: Tensor,
    heights: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Cut each box's object into ``side`` x ``side`` cells, set where at least half is mask.

    The areas are exact, for cells smaller and larger than a pixel alike; cell edges are rounded to
    1/4096 pixel. Outside its canvas an object has no mask.

    Args:
        run_ends: (K,) int64, where each run ends, ascending per object and counted from the start
            of its canvas: the running sum of COCO's counts. Runs of zeros and ones in turn go down
            the columns, zeros first.
        run_offsets: (N + 1,) int64 ascending into run_ends; object n owns [n, n + 1).
        heights: (N,) int64, 1 to 131,072, rows of each object's canvas.
        objects: (R,) int64, the object that each box wants.
        boxes: (R, 4) float, x1 y1 x2 y2, in the pixels of the canvas. Where x2 < x1 the mask is
            mirrored, so that a flip of the image is one of the boxes alone; y likewise. A side
            shorter than 0.1 pixel counts as 0.1. A box with NaN or infinity gives an empty mask.
        side: cells per axis.

    Returns:
        (R, side, side) float32, 0 or 1.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: an offset, height or object is out of range (CPU; on CUDA its mask is empty
            or wrong).

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
    require_indices("objects", objects)
    require_rows("boxes", boxes, 4)
    require_equal_length(objects=objects, boxes=boxes)
    require_positive("side", side)
    require_one_device(
        run_ends=run_ends, run_offsets=run_offsets, heights=heights, objects=objects, boxes=boxes
    )
    arguments = (run_ends, run_offsets, heights, objects, boxes.float(), side)
    if not library.compiled_for("rasterize_rle", boxes.device):
        return reference.rasterize_rle(*arguments)
    masks: Tensor = torch.ops.ops_cuda.rasterize_rle(*arguments)
    return masks
