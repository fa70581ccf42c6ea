"""Proposals of the region proposal network, padded to one count per image."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Proposals:
    """Boxes that may hold an object, as many rows for every image, so that nobody has to wait.

    Args:
        boxes: (B, P, 4) float32, pixels of the padded batch, best first; zeros after an image's
            last.
        counts: (B,) int64, proposals of each image, on the device of the boxes.
        logits: (B, P) float32, how much each looks like an object; None where nobody judged.
    """

    boxes: Tensor
    counts: Tensor
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4:
            raise ValueError(f"boxes must be (B, P, 4); got {tuple(self.boxes.shape)}")
        if self.logits is not None and self.logits.shape != self.boxes.shape[:2]:
            raise ValueError(
                f"logits must be {tuple(self.boxes.shape[:2])} as the boxes are; "
                f"got {tuple(self.logits.shape)}"
            )
        if self.counts.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"counts must be (B,), one per image of {len(self.boxes)}; "
                f"got {tuple(self.counts.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def present(self) -> Tensor:
        """(B, P) bool: which rows hold a proposal."""
        row = torch.arange(self.boxes.shape[1], device=self.boxes.device)
        return row < self.counts[:, None]

    def rois(self) -> Tensor:
        """(B * P, 5): image index and box of every row."""
        images, rows, _ = self.boxes.shape
        image = torch.arange(images, device=self.boxes.device, dtype=self.boxes.dtype)
        column = image[:, None, None].expand(images, rows, 1)
        return torch.cat((column, self.boxes), dim=2).flatten(0, 1)
