"""The objects of one image of a batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The G objects of an image.

    Args:
        image_id: the dataset's id of the image.
        boxes: (G, 4).
        labels: (G,).
        keypoints: (G, P, 3) or None.
        vertices: (V, 2), those of all polygons; None if the targets carry no masks.
        runs: of all objects, the ends of their runs, the heights of their canvases, and the maps to
            the canvases; None likewise.
    """

    image_id: int
    boxes: Tensor
    labels: Tensor
    keypoints: Tensor | None
    vertices: Tensor | None
    runs: tuple[Tensor, Tensor, Tensor] | None


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
            None if targets.masks is None else _runs(targets.masks.runs, begin, end),
        )
        for image_id, begin, end in zip(targets.image_ids, offsets, offsets[1:], strict=False)
    ]


def _vertices(polygons, begin, end):
    first, last = (int(polygons.object_offsets[index]) for index in (begin, end))
    return polygons.vertices[polygons.polygon_offsets[first] : polygons.polygon_offsets[last]]


def _runs(runs, begin, end):
    first, last = (int(runs.run_offsets[index]) for index in (begin, end))
    return runs.run_ends[first:last], runs.heights[begin:end], runs.to_canvas[begin:end]
