"""Where a box ends: behind its last pixel, or on it.

In the detector a box is as wide as x2 - x1. Detectron and maskrcnn-benchmark let x2 be the last
pixel's, so that their width is x2 - x1 + 1. Their boxes are held here with 1 added to x2 and y2:
then coding, overlaps, areas, levels and COCO's x y w h are ours, and only what this file does
differs.

Shapes: B images, N boxes, A anchors. Limits are those of ``model.boxes.image_limits``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.boxes.operations import clip_boxes, scale_boxes
from model.structures import ImageSize, Proposals
from ops_cuda import top_scores

MaskPaste = Literal["padded", "inclusive", "grid"]
"""How masks come to the image; see ``Detections.mask_paste``."""


@dataclass(frozen=True)
class BoxGeometry:
    """What depends on where a box ends.

    Args:
        inclusive: boxes stand for those of Detectron, which end on their last pixel.
    """

    inclusive: bool = False

    @property
    def last_pixel(self) -> float:
        """Pixels from the coordinate that is meant to x2 as it is held."""
        return 1.0 if self.inclusive else 0.0

    def clip(self, boxes: Tensor, limits: Tensor) -> Tensor:
        """Boxes (..., 4) moved onto the image; an inclusive one keeps a pixel of its border."""
        return clip_boxes(boxes, limits, kept_side=self.last_pixel)

    def scale(self, boxes: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
        """Boxes (N, 4) of an image resized from ``old`` to ``new``; what is meant is scaled."""
        return _far_corner_moved(scale_boxes(self.sampled(boxes), old, new), self.last_pixel)

    def sampled(self, boxes: Tensor) -> Tensor:
        """Boxes, or ROIs (..., 5), as features are pooled, masks and keypoints placed in them."""
        return _far_corner_moved(boxes, -self.last_pixel)

    def inside(self, anchors: Tensor, limits: Tensor) -> Tensor | None:
        """The anchors that may be learned from: with inclusive boxes those that cross no border.

        Args:
            anchors: (A, 4), pixels.
            limits: (B, 4).

        Returns:
            (B, A) bool; None where all may.

        Source: Ren et al. 2015, section 3.3.
        """
        if not self.inclusive:
            return None
        begins_inside = (anchors[:, :2] >= 0).all(dim=1)
        return begins_inside & (self.sampled(anchors)[:, 2:] < limits[:, None, 2:]).all(dim=2)

    def training_proposals(self, proposals: Proposals, limit: int) -> Proposals:
        """The proposals to train on: with inclusive boxes only the batch's best, ``limit`` in all.

        Those of an image stand best first, so that fewer of them are its first ones.

        Source: Detectron, which collects the proposals of a pyramid so.
        """
        if not self.inclusive or proposals.logits is None:
            return proposals
        present = proposals.present()
        scores = torch.where(present, proposals.logits, -torch.inf).flatten()
        _, best = top_scores(scores[None], limit)
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(0, best[0], True)
        chosen = chosen.view_as(present) & present
        return Proposals(
            torch.where(chosen[..., None], proposals.boxes, 0.0),
            chosen.sum(dim=1),
            torch.where(chosen, proposals.logits, 0.0),
        )

    def mask_paste(self, rule: Literal["padded", "grid"]) -> MaskPaste:
        """The rule, as it applies to boxes as they are held."""
        return "inclusive" if self.inclusive and rule == "padded" else rule


CONTINUOUS = BoxGeometry()
"""Boxes that end behind their last pixel."""


def anchors_from_stride(sizes: Sequence[float], ratios: Sequence[float], stride: int) -> Tensor:
    """Detectron's anchors of cell (0, 0): rounded for a square of the stride, then enlarged.

    Args:
        sizes: square root of the anchors' area, about, pixels.
        ratios: height over width.
        stride: pixels between cells.

    Returns:
        (R * S, 4) float32, the S sizes of a ratio together; centred on stride / 2, which among
        Detectron's pixels, whole numbers being their centres, is (stride - 1) / 2.
    """
    heights_per_width = torch.tensor(ratios, dtype=torch.float64)
    widths = (stride**2 / heights_per_width).sqrt().round()  # halves to even, as numpy rounds them
    sides = torch.stack((widths, (widths * heights_per_width).round()), dim=1)
    enlarged = torch.tensor(sizes, dtype=torch.float64) / stride
    half = 0.5 * (sides[:, None] * enlarged[:, None]).flatten(0, 1)
    return torch.cat((stride / 2 - half, stride / 2 + half), dim=1).float()


def _far_corner_moved(boxes: Tensor, pixels: float) -> Tensor:
    if pixels == 0:
        return boxes
    return torch.cat((boxes[..., :-2], boxes[..., -2:] + pixels), dim=-1)
