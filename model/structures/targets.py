"""The ground truth of one image, and the losses computed against it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from model.structures.masks import InstanceMasks


class Category(NamedTuple):
    """A class of the dataset: its name, and its ``id`` in the annotations."""

    id: int
    name: str


@dataclass(frozen=True)
class Targets:
    """The N ground-truth objects of one image, in pixels of the resized image, without crowds.

    Args:
        boxes: (N, 4) float32.
        labels: (N,) int64, 1..K.
        masks: N masks, or None if only boxes are trained.
        keypoints: (N, P, 3) float32: x, y, visibility (0 not labeled, 1 hidden, 2 visible); or
            None.
        image_id: the dataset's id of the image, for error messages.
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
        """Return the targets on ``device``."""
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
    """A loss before normalization, so that all workers can divide by their common count.

    With a single process the loss is ``total / max(count, 1)``.

    Args:
        total: scalar, attached to the graph.
        count: scalar without gradient.
    """

    total: Tensor
    count: Tensor
