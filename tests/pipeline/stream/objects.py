"""The objects of one image of a batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The G objects of an image: boxes (G, 4), keypoints (G, P, 3) and polygon vertices (V, 2)."""

    image_id: int
    boxes: Tensor
    labels: Tensor
    keypoints: Tensor | None
    vertices: Tensor | None


def objects_of_images(batch):
    """Return the objects of each image of a ``StreamBatch``."""
    targets = batch.targets
    offsets = targets.offsets.tolist()
    return [
        Objects(
            image_id,
            targets.boxes[begin:end],
            targets.labels[begin:end],
            None if targets.keypoints is None else targets.keypoints[begin:end],
            None if targets.masks is None else _vertices(targets.masks.polygons, begin, end),
        )
        for image_id, begin, end in zip(targets.image_ids, offsets, offsets[1:], strict=False)
    ]


def _vertices(polygons, begin, end):
    first, last = (int(polygons.object_offsets[index]) for index in (begin, end))
    return polygons.vertices[polygons.polygon_offsets[first] : polygons.polygon_offsets[last]]
