"""Mask targets straight from polygons."""

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


def rasterize_polygons(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Draw each box's object into ``side`` x ``side`` cells of the box, as pycocotools would.

    The polygons are moved and scaled into the box in double precision, each is drawn by
    pycocotools' rule (corners on fifths of a cell; even-odd), and the object is their union: the
    targets of maskrcnn-benchmark and detectron2, bit for bit while the corners lie within a million
    cells of the box. Nothing outside the box is drawn.

    Args:
        vertices: (V, 2) float, x y pixels, in the frame of the boxes. A polygon with a NaN or an
            infinity draws nothing; one of fewer than three corners has no area.
        polygon_offsets: (P + 1,) int64 ascending into vertices; polygon p owns [p, p + 1).
        object_offsets: (N + 1,) int64 ascending into polygons.
        objects: (R,) int64, the object that each box wants.
        boxes: (R, 4) float, x1 y1 x2 y2. A side shorter than 0.1 pixel, or negative, counts as 0.1
            from x1 or y1 on (detectron2's rule). A box with NaN or infinity gives an empty mask.
        side: cells per axis.

    Returns:
        (R, side, side) float32, 0 or 1.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: an offset or object is out of range (CPU; on CUDA its mask is empty).

    Source: He et al. 2017, section 3.1: the target is the mask inside the roi; pycocotools.
    """
    require_rows("vertices", vertices, 2)
    require_rows("boxes", boxes, 4)
    for name, offsets in (("polygon_offsets", polygon_offsets), ("object_offsets", object_offsets)):
        require_indices(name, offsets)
        if len(offsets) == 0:
            raise ValueError(f"{name} must start with 0: (P + 1,) entries; got none")
    require_indices("objects", objects)
    require_equal_length(objects=objects, boxes=boxes)
    require_positive("side", side)
    require_one_device(
        vertices=vertices,
        polygon_offsets=polygon_offsets,
        object_offsets=object_offsets,
        objects=objects,
        boxes=boxes,
    )
    shape = (vertices.float(), polygon_offsets, object_offsets, objects, boxes.float(), side)
    if not library.compiled_for("rasterize_polygons", boxes.device):
        return reference.rasterize_polygons(*shape)
    masks: Tensor = torch.ops.ops_cuda.rasterize_polygons(*shape)
    return masks
