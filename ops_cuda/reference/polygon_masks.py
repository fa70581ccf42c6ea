"""Twin of the rasterisation of polygons inside boxes."""

import torch
from torch import Tensor


def rasterize_polygons(
    vertices: Tensor,
    polygon_offsets: Tensor,
    object_offsets: Tensor,
    objects: Tensor,
    boxes: Tensor,
    side: int,
) -> Tensor:
    """Twin of `ops_cuda.rasterize_polygons`: even-odd crossings of a ray to the right."""
    masks = vertices.new_zeros(len(boxes), side, side)
    steps = torch.arange(side, device=vertices.device, dtype=vertices.dtype) + 0.5
    polygon_starts, object_starts = polygon_offsets.tolist(), object_offsets.tolist()
    for mask, item, box in zip(masks, objects.tolist(), boxes, strict=True):
        columns = box[0] + steps * ((box[2] - box[0]) / side)
        rows = box[1] + steps * ((box[3] - box[1]) / side)
        for polygon in range(object_starts[item], object_starts[item + 1]):
            begin = vertices[polygon_starts[polygon] : polygon_starts[polygon + 1]]
            (x1, y1), (x2, y2) = begin.T[..., None], begin.roll(-1, 0).T[..., None]
            crosses = (y1 <= rows) != (y2 <= rows)
            crossing = x1 + (rows - y1) / (y2 - y1) * (x2 - x1)
            right_of = crosses[..., None] & (columns < crossing[..., None])
            mask[right_of.sum(0) % 2 == 1] = 1.0
    return masks
