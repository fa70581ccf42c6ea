"""From class scores and box deltas to the selected boxes of each image.

Shapes as in ``model.structures``; N candidate boxes of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.coding import BoxCoder
from model.boxes.convention import CONTINUOUS, BoxConvention
from model.boxes.nms import nms_per_image
from model.boxes.operations import image_limits, sides_at_least
from model.structures import ImageSize, Proposals

# Thinner boxes are dropped (torchvision); pixels.
MIN_DETECTION_SIDE = 1e-2


class Candidates(NamedTuple):
    """Boxes before NMS, in any order; many may show the same object.

    Args:
        boxes: (N, 4) float32, pixels of the padded batch, not clipped.
        scores: (N,) float32.
        images: (N,) int64, image of each box.
        labels: (N,) int64, 1..K.
    """

    boxes: Tensor
    scores: Tensor
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SelectedBoxes:
    """The D detected boxes of a batch, image by image, highest score first in each.

    Args:
        rois: (D, 5) float32: image index and box, pixels of the padded batch.
        scores: (D,) float32.
        labels: (D,) int64, 1..K.
        counts: detections of each image.
    """

    rois: Tensor
    scores: Tensor
    labels: Tensor
    counts: list[int]

    @property
    def boxes(self) -> Tensor:
        """(D, 4) float32, pixels of the padded batch."""
        return self.rois[:, 1:]


def candidates_above(
    score_threshold: float,
    logits: Tensor,
    deltas: Tensor,
    rois: Tensor,
    valid: Tensor,
    coder: BoxCoder,
) -> Candidates:
    """Return the boxes of all pairs of ROI and class that score above a threshold.

    Syncs with the device.

    Args:
        score_threshold: softmax probability that a candidate must exceed.
        logits: (R, K + 1) float32.
        deltas: (R, K + 1, 4) float32, or (R, 1, 4) shared by all classes.
        rois: (R, 5) float32: image index and proposal.
        valid: (R,) bool, which rows are proposals, not padding.
        coder: box coder of the deltas.

    Source: Girshick 2015, section 4.
    """
    scores = logits.softmax(dim=1)
    above = (scores[:, 1:] > score_threshold) & valid[:, None]
    roi, label = above.nonzero(as_tuple=True)  # device sync
    label = label + 1
    # Only the pairs above the threshold are decoded: a few hundred of R x K.
    boxes = coder.decode(deltas.expand(-1, logits.shape[1], -1)[roi, label], rois[roi, 1:])
    return Candidates(boxes, scores[roi, label], rois[roi, 0].long(), label)


def select_boxes(
    candidates: Candidates,
    sizes: Sequence[ImageSize],
    nms_iou: float,
    max_detections: int,
    convention: BoxConvention = CONTINUOUS,
) -> SelectedBoxes:
    """Clip candidates to their images and run NMS within each class.

    Args:
        candidates: boxes of all images.
        sizes: size of each image inside the batch.
        nms_iou: IoU above which the higher score suppresses the other.
        max_detections: boxes kept per image.
        convention: box convention of the detector.
    """
    images = candidates.images
    limits = image_limits(sizes, candidates.boxes.device)
    boxes = convention.clip(candidates.boxes, limits[images])
    large = sides_at_least(boxes, MIN_DETECTION_SIDE)
    scores = torch.where(large, candidates.scores, -torch.inf)
    kept, counts = nms_per_image(
        boxes, scores, images, candidates.labels, len(sizes), nms_iou, max_detections
    )
    return SelectedBoxes(
        rois=torch.cat((images[kept, None].to(boxes.dtype), boxes[kept]), dim=1),
        scores=scores[kept],
        labels=candidates.labels[kept],
        counts=counts,
    )


def select_proposals_as_boxes(proposals: Proposals) -> SelectedBoxes:
    """Return proposals as detections of class 1. Syncs with the device.

    Raises:
        ValueError: the proposals have no scores.
    """
    if proposals.logits is None:
        raise ValueError("proposals without logits have no scores")
    valid = proposals.valid()
    rois = proposals.rois()[valid.flatten()]
    return SelectedBoxes(
        rois=rois,
        scores=proposals.logits[valid].sigmoid(),
        labels=torch.ones_like(rois[:, 0], dtype=torch.int64),
        counts=proposals.counts.tolist(),
    )


def pad_for_export(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], count: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Append ``count`` anchors with logit -inf to every level while a program is exported.

    A top-k of ``count`` anchors needs that many, but whether a level has them depends on the image
    size, on which an exported program must not branch. Padding ranks last in the top-k and is
    dropped afterward because of its score.

    Args:
        logits: per level (B, A_l) or (B, A_l, K).
        deltas: per level (B, A_l, 4).
        anchors: per level (A_l, 4).
        count: the k of the top-k.
    """
    if not torch.compiler.is_exporting():
        return list(logits), list(deltas), list(anchors)
    trailing = (0, 0) * (logits[0].ndim - 2)
    return (
        [F.pad(level, (*trailing, 0, count), value=-torch.inf) for level in logits],
        [F.pad(level, (0, 0, 0, count)) for level in deltas],
        [F.pad(level, (0, 0, 0, count)) for level in anchors],
    )
