"""What the detector found in one image.

Shapes: R detections, M mask side, H W of the original image.
"""

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.boxes.convention import BoxGeometry, MaskPaste
from model.structures import ImageSize
from ops_cuda import compress_rle, encode_roi_masks_rle, paste_masks


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
        keypoints: (R, P, 3) float32: x, y, and a score that is larger where surer; None from a
            detector without keypoints.
        mask_paste: how masks come to the image: padded resizes the mask with a border of zeros to
            whole pixels, as torchvision; inclusive does so, but the box ends on its last pixel, as
            in maskrcnn-benchmark; grid reads the mask where pixels have their centres, as
            detectron2.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None
    image_size: ImageSize
    mask_threshold: float = 0.5
    keypoints: Tensor | None = None
    mask_paste: MaskPaste = "padded"

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
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
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
            keypoints=None if self.keypoints is None else self.keypoints.to(device),
        )

    def bitmaps(self) -> Tensor:
        """The masks on the image: (R, H, W) uint8 of 0 and 1.

        Raises:
            ValueError: the detector has no mask head.
        """
        return paste_masks(*self._pasting())

    def rle(self) -> list[dict[str, object]]:
        """The masks as COCO stores them: ``{"size": [h, w], "counts": str}`` for each.

        Identical to ``pycocotools.mask.encode`` of :meth:`bitmaps`, which are never made.

        Raises:
            ValueError: the detector has no mask head.
        """
        characters, offsets = compress_rle(*encode_roi_masks_rle(*self._pasting()))
        text = characters.numpy().tobytes().decode("ascii")
        size = list(self.image_size)
        return [
            {"size": size.copy(), "counts": text[start:end]}
            for start, end in itertools.pairwise(offsets.tolist())
        ]

    def _pasting(self) -> tuple[Tensor, Tensor, int, int, float, bool]:
        """Masks, their boxes, the image's size, the threshold, and whether to paste by a grid."""
        if self.masks is None:
            raise ValueError("these detections have no masks: the detector has no mask head")
        boxes = BoxGeometry(self.mask_paste == "inclusive").sampled(self.boxes)
        by_grid = self.mask_paste == "grid"
        return self.masks, boxes, *self.image_size, self.mask_threshold, by_grid
