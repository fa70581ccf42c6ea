"""Proposals of the region proposal network, padded to the same count for every image."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Proposals:
    """Up to N proposed boxes per image.

    Padded to N rows per image, so no device sync is needed; ``counts`` marks the real rows.

    Args:
        boxes: (B, N, 4) float32, pixels of the padded batch, highest score first; zeros in padding.
        counts: (B,) int64, number of proposals of each image, on the device of the boxes.
        logits: (B, N) float32, objectness; None if the proposals have no scores.
    """

    boxes: Tensor
    counts: Tensor
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4:
            raise ValueError(f"boxes must be (B, N, 4); got {tuple(self.boxes.shape)}")
        if self.logits is not None and self.logits.shape != self.boxes.shape[:2]:
            raise ValueError(
                f"logits must be {tuple(self.boxes.shape[:2])} like the boxes; "
                f"got {tuple(self.logits.shape)}"
            )
        if self.counts.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"counts must be ({len(self.boxes)},), one per image; "
                f"got {tuple(self.counts.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def valid(self) -> Tensor:
        """Return (B, N) bool: which rows are proposals, not padding."""
        row = torch.arange(self.boxes.shape[1], device=self.boxes.device)
        return row < self.counts[:, None]

    def rois(self) -> Tensor:
        """Return (B * N, 5): image index and box of every row, padding included."""
        images, rows, _ = self.boxes.shape
        image = torch.arange(images, device=self.boxes.device, dtype=self.boxes.dtype)
        column = image[:, None, None].expand(images, rows, 1)
        return torch.cat((column, self.boxes), dim=2).flatten(0, 1)
