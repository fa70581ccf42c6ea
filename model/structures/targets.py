"""The ground truth of one image, and the losses computed from it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from model.structures.masks import InstanceMasks


class Category(NamedTuple):
    """A class of the data set: ``id`` as in its annotations, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class Targets:
    """The objects of one image, in the pixels of the resized image; crowd regions left out.

    Args:
        boxes: (N, 4) float32.
        labels: (N,) int64, 1..K.
        masks: N masks, or None where only boxes are trained.
        keypoints: (N, P, 3) float32: x, y, and 0 not labelled, 1 hidden, 2 visible; or None.
        image_id: the data set's number for the image, for error reports.
    """

    boxes: Tensor
    labels: Tensor
    masks: InstanceMasks | None = None
    keypoints: Tensor | None = None
    image_id: int = -1

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(
                f"boxes must be (N, 4); got {tuple(self.boxes.shape)}. "
                "An image without objects needs (0, 4)."
            )
        if len(self.labels) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes but {len(self.labels)} labels")
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes but {len(self.masks)} masks")
        points = self.keypoints
        if points is not None and (points.ndim != 3 or points.shape[::2] != (len(self.boxes), 3)):
            raise ValueError(
                f"keypoints must be ({len(self.boxes)}, P, 3), one row per box; "
                f"got {tuple(points.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Targets":
        """The same targets on ``device``."""
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            masks=None if self.masks is None else self.masks.to(device, non_blocking),
            keypoints=None
            if self.keypoints is None
            else self.keypoints.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class LossTerm:
    """A loss before normalisation, so that many workers can divide by their common count.

    ``total`` is a scalar tensor attached to the graph, ``count`` a scalar tensor without gradient.
    The loss of one process alone is ``total / max(count, 1)``.
    """

    total: Tensor
    count: Tensor
