"""What the detector found in one image.

Shapes: R detections, M mask side, H W of the original image.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.rle import encode_bitmap
from model.structures import ImageSize
from ops_cuda import paste_masks

# Bitmaps pasted at once for encoding: bounds the memory, not the number of detections.
_PASTED_PIXELS = 2**25


@dataclass(frozen=True)
class Detections:
    """Objects of one image in its original pixels, best first.

    Args:
        boxes: (R, 4) float32, x1 y1 x2 y2.
        scores: (R,) float32 in [0, 1].
        labels: (R,) int64, 1..K.
        masks: (R, M, M) float32, probability inside the box; None from a detector without masks.
        image_size: of the original image.
        mask_threshold: probability at which a pixel counts as object.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None
    image_size: ImageSize
    mask_threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Tensor) -> "Detections":
        """The detections that an index or bool tensor chooses."""
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            masks=None if self.masks is None else self.masks[chosen],
        )

    def above(self, score: float) -> "Detections":
        """The detections with at least this score."""
        return self[self.scores >= score]

    def to(self, device: torch.device | str) -> "Detections":
        """The same detections on ``device``."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
        )

    def bitmaps(self) -> Tensor:
        """The masks on the image: (R, H, W) uint8 of 0 and 1.

        Raises:
            ValueError: the detector has no mask head.
        """
        return self._paste(slice(None))

    def rle(self) -> list[dict[str, object]]:
        """The masks as COCO stores them: ``{"size": [h, w], "counts": str}`` for each.

        Identical to ``pycocotools.mask.encode`` of :meth:`bitmaps`, without holding all of them.

        Raises:
            ValueError: the detector has no mask head.
        """
        height, width = self.image_size
        # A pasted mask reaches over its box by half a mask pixel and the rounding.
        sides = self.boxes[:, 2] - self.boxes[:, 0]
        margin = sides / (1 if self.masks is None else self.masks.shape[-1]) + 2
        first = (self.boxes[:, 0] - margin).clamp(0, width).floor().long().tolist()
        last = (self.boxes[:, 2] + margin).clamp(0, width).ceil().long().tolist()
        step = max(1, _PASTED_PIXELS // (height * width))
        encoded: list[dict[str, object]] = []
        for start in range(0, len(self), step):
            for bitmap in self._paste(slice(start, start + step)).cpu().numpy():
                row = len(encoded)
                counts = encode_bitmap(bitmap, first[row], last[row])
                encoded.append({"size": [height, width], "counts": counts})
        return encoded

    def _paste(self, rows: slice) -> Tensor:
        if self.masks is None:
            raise ValueError("these detections have no masks: the detector has no mask head")
        return paste_masks(
            self.masks[rows],
            self.boxes[rows],
            self.image_size.height,
            self.image_size.width,
            self.mask_threshold,
        )
