"""From class scores and box deltas to the boxes worth keeping.

Shapes: B images, R ROIs of the batch, K classes (0 is the background), N candidates and
D detections of the batch, P keypoints of an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.boxes.coding import BoxCoder
from model.boxes.convention import CONTINUOUS, BoxGeometry, MaskPaste
from model.boxes.nms import keep_best_per_image
from model.boxes.operations import image_limits, scale_points, sides_at_least
from model.config import BoxHeadConfig
from model.detections import Detections
from model.structures import ImageBatch, ImageSize, Proposals

# A thinner box shows nothing (torchvision); pixels.
THINNEST_DETECTION = 1e-2


class Candidates(NamedTuple):
    """Boxes that may be of an object, in any order; many of the same one.

    Args:
        boxes: (N, 4) float32, pixels of the padded batch, not yet cut to the images.
        scores: (N,) float32.
        images: (N,) int64, the image of each.
        labels: (N,) int64, 1..K.
    """

    boxes: Tensor
    scores: Tensor
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SelectedBoxes:
    """The detections of a batch, image after image, best first in each.

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


def select_boxes(
    logits: Tensor,
    deltas: Tensor,
    rois: Tensor,
    present: Tensor,
    coder: BoxCoder,
    sizes: Sequence[ImageSize],
    settings: BoxHeadConfig,
    geometry: BoxGeometry = CONTINUOUS,
) -> SelectedBoxes:
    """Keep confident boxes that no better box of their class overlaps.

    Args:
        logits: (R, K + 1) float32.
        deltas: (R, K + 1, 4) float32, or (R, 1, 4) of all classes.
        rois: (R, 5) float32: image index and proposal.
        present: (R,) bool, which rows are proposals.
        coder: of the deltas.
        sizes: content size of each image in the batch.
        settings: thresholds and the number of detections.
        geometry: of the boxes.

    Source: Girshick 2015, section 4; thresholds of Detectron.
    """
    found = confident_boxes(logits, deltas, rois, present, coder, settings.score_threshold)
    best = settings.detections_per_image
    return keep_best_boxes(*found, sizes, settings.nms_iou, best, geometry)


def confident_boxes(
    logits: Tensor,
    deltas: Tensor,
    rois: Tensor,
    present: Tensor,
    coder: BoxCoder,
    least_score: float,
) -> Candidates:
    """The boxes of all pairs of ROI and class with a score above ``least_score``.

    The other arguments are those of :func:`select_boxes`.
    """
    scores = logits.softmax(dim=1)
    confident = (scores[:, 1:] > least_score) & present[:, None]
    roi, label = confident.nonzero(as_tuple=True)  # waits for the device
    label = label + 1
    # Only confident pairs of ROI and class are decoded: a few hundred of R x K.
    boxes = coder.decode(deltas.expand(-1, logits.shape[1], -1)[roi, label], rois[roi, 1:])
    return Candidates(boxes, scores[roi, label], rois[roi, 0].long(), label)


def keep_best_boxes(
    boxes: Tensor,
    scores: Tensor,
    images: Tensor,
    labels: Tensor,
    sizes: Sequence[ImageSize],
    nms_iou: float,
    limit: int,
    geometry: BoxGeometry = CONTINUOUS,
) -> SelectedBoxes:
    """Cut boxes to their images and keep those that no better one of their class overlaps.

    Args:
        boxes: (N, 4) float32, pixels of the padded batch.
        scores: (N,) float32.
        images: (N,) int64, the image of each.
        labels: (N,) int64, 1..K.
        sizes: content size of each image in the batch.
        nms_iou: overlap at which the better box suppresses the other.
        limit: boxes kept per image, at most.
        geometry: of the boxes.
    """
    boxes = geometry.clip(boxes, image_limits(sizes, boxes.device)[images])
    large = sides_at_least(boxes, THINNEST_DETECTION)
    kept_scores = torch.where(large, scores, -torch.inf)
    kept, counts = keep_best_per_image(
        boxes, kept_scores, images, labels, len(sizes), nms_iou, limit
    )
    return SelectedBoxes(
        rois=torch.cat((images[kept, None].to(boxes.dtype), boxes[kept]), dim=1),
        scores=kept_scores[kept],
        labels=labels[kept],
        counts=counts,
    )


def proposals_as_boxes(proposals: Proposals) -> SelectedBoxes:
    """What a proposal network finds by itself: objects of class 1.

    Raises:
        ValueError: proposals that nobody judged.
    """
    if proposals.logits is None:
        raise ValueError("proposals without logits have no scores")
    present = proposals.present()
    rois = proposals.rois()[present.flatten()]
    return SelectedBoxes(
        rois=rois,
        scores=proposals.logits[present].sigmoid(),
        labels=torch.ones_like(rois[:, 0], dtype=torch.int64),
        counts=proposals.counts.tolist(),
    )


def to_detections(
    found: SelectedBoxes,
    images: ImageBatch,
    masks: Tensor | None = None,
    mask_threshold: float = 0.5,
    keypoints: Tensor | None = None,
    geometry: BoxGeometry = CONTINUOUS,
    mask_paste: MaskPaste = "padded",
) -> list[Detections]:
    """What was found, image by image, in the pixels of the images as they were.

    Args:
        found: D boxes in the pixels of the padded batch.
        images: the batch.
        masks: (D, M, M) float32 in [0, 1], or None.
        mask_threshold: probability at which a pixel counts as object.
        keypoints: (D, P, 3) float32: x, y in the pixels of the padded batch, score; or None.
        geometry: of the boxes.
        mask_paste: how masks come to the image.
    """
    absent: list[Tensor | None] = [None] * len(images)
    return [
        Detections(
            boxes=geometry.scale(boxes, size, original),
            scores=scores,
            labels=labels,
            masks=mask,
            image_size=original,
            mask_threshold=mask_threshold,
            keypoints=None if points is None else _scale_keypoints(points, size, original),
            mask_paste=mask_paste,
        )
        for boxes, scores, labels, mask, points, size, original in zip(
            torch.split(found.rois[:, 1:], found.counts),
            torch.split(found.scores, found.counts),
            torch.split(found.labels, found.counts),
            absent if masks is None else torch.split(masks, found.counts),
            absent if keypoints is None else torch.split(keypoints, found.counts),
            images.sizes,
            images.original_sizes,
            strict=True,
        )
    ]


def _scale_keypoints(keypoints: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
    """Keypoints (N, P, 3) of an image resized from ``old`` to ``new``; scores stay."""
    return torch.cat((scale_points(keypoints[..., :2], old, new), keypoints[..., 2:]), dim=-1)
