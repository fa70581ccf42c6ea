"""The box convention: x2 and y2 are one past the last pixel of a box, or on it.

Internally a box is x2 - x1 wide. In Detectron and maskrcnn-benchmark x2 is the index of the last
pixel, so a box is x2 - x1 + 1 wide. Such boxes are stored here with 1 added to x2 and y2: coding,
IoU, areas, pyramid levels and COCO's x y w h then need no special case, and the remaining
differences are all in this file.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.boxes.operations import clip_boxes, scale_boxes
from model.structures import ImageSize, Proposals
from ops_cuda import stable_topk

MaskPaste = Literal["padded", "inclusive", "grid"]
"""How masks are pasted into the image; see ``Detections.mask_paste``."""


@dataclass(frozen=True)
class BoxConvention:
    """Where boxes end, and everything that depends on it.

    Args:
        inclusive: in the source convention of the boxes, that of Detectron, x2 and y2 are the last
            pixel.
    """

    inclusive: bool = False

    @property
    def offset(self) -> float:
        """Pixels added to x2 and y2 of the source convention when stored."""
        return 1.0 if self.inclusive else 0.0

    def clip(self, boxes: Tensor, limits: Tensor) -> Tensor:
        """Clip boxes (..., 4) to ``limits`` from ``image_limits``.

        An inclusive box outside the image keeps the nearest border pixel.
        """
        return clip_boxes(boxes, limits, min_side=self.offset)

    def scale(self, boxes: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
        """Scale boxes (N, 4) of an image resized from ``old`` to ``new``.

        The coordinates of the source convention are scaled, as Detectron does.
        """
        return _shift_far_corner(scale_boxes(self.source_boxes(boxes), old, new), self.offset)

    def scale_by(self, boxes: Tensor, ratio: Tensor) -> Tensor:
        """Scale boxes (N, 4) as `scale` does, by the ratio of new to old width and height, (2,)."""
        return _shift_far_corner(self.source_boxes(boxes) * ratio.repeat(2), self.offset)

    def source_boxes(self, boxes: Tensor) -> Tensor:
        """Return boxes or ROIs (..., 4 or 5) with x2 and y2 as in the source convention.

        ROI align samples features inside these; mask and keypoint coordinates are relative to them.
        """
        return _shift_far_corner(boxes, -self.offset)

    def anchors_inside(self, anchors: Tensor, limits: Tensor) -> Tensor | None:
        """Return which anchors may be sampled: inclusive ones only if they lie inside the image.

        Args:
            anchors: (A, 4), pixels.
            limits: (B, 4).

        Returns:
            (B, A) bool, or None if all anchors may be sampled.

        Source: Ren et al. 2015, section 3.3.
        """
        if not self.inclusive:
            return None
        starts_inside = (anchors[:, :2] >= 0).all(dim=1)
        return starts_inside & (self.source_boxes(anchors)[:, 2:] < limits[:, None, 2:]).all(dim=2)

    def limit_training_proposals(self, proposals: Proposals, max_proposals: int) -> Proposals:
        """Keep the ``max_proposals`` best of the whole batch if boxes are inclusive.

        Proposals of an image are sorted by score, so each image keeps its first ones.

        Source: Detectron, which collects the proposals of a pyramid this way.
        """
        if not self.inclusive or proposals.logits is None:
            return proposals
        valid = proposals.valid()
        scores = torch.where(valid, proposals.logits, -torch.inf).flatten()
        _, best = stable_topk(scores[None], max_proposals)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(0, best[0], True)
        kept = kept.view_as(valid) & valid
        return Proposals(
            torch.where(kept[..., None], proposals.boxes, 0.0),
            kept.sum(dim=1),
            torch.where(kept, proposals.logits, 0.0),
        )

    def mask_paste(self, convention: Literal["padded", "grid"]) -> MaskPaste:
        """Return the paste mode for stored boxes, given ``Conventions.mask_paste``."""
        return "inclusive" if self.inclusive and convention == "padded" else convention


CONTINUOUS = BoxConvention()
"""x2 and y2 are one past the last pixel, as in torchvision and detectron2."""


def _shift_far_corner(boxes: Tensor, pixels: float) -> Tensor:
    if pixels == 0:
        return boxes
    return torch.cat((boxes[..., :-2], boxes[..., -2:] + pixels), dim=-1)
