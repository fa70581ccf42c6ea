"""From class scores and box deltas to the boxes worth keeping.

Shapes: B images, R ROIs of the batch, K classes (0 is the background), D detections of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.box_coding import BoxCoder
from model.boxes import clip_boxes, image_limits, sides_at_least
from model.config import BoxHeadConfig
from model.structures import ImageSize
from model.suppression import keep_best_per_image

# A thinner box shows nothing (torchvision); pixels.
THINNEST_DETECTION = 1e-2


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
) -> SelectedBoxes:
    """Keep confident boxes that no better box of their class overlaps.

    Args:
        logits: (R, K + 1) float32.
        deltas: (R, K + 1, 4) float32.
        rois: (R, 5) float32: image index and proposal.
        present: (R,) bool, which rows are proposals.
        coder: of the deltas.
        sizes: content size of each image in the batch.
        settings: thresholds and the number of detections.

    Source: Girshick 2015, section 4; thresholds of Detectron.
    """
    scores = logits.softmax(dim=1)
    confident = (scores[:, 1:] > settings.score_threshold) & present[:, None]
    roi, label = confident.nonzero(as_tuple=True)  # waits for the device; so do the counts, below
    label = label + 1
    image = rois[roi, 0].long()
    # Only confident pairs of ROI and class are decoded: a few hundred of R x K.
    boxes = coder.decode(deltas[roi, label], rois[roi, 1:])
    boxes = clip_boxes(boxes, image_limits(sizes, rois.device)[image])
    large = sides_at_least(boxes, THINNEST_DETECTION)
    kept_scores = torch.where(large, scores[roi, label], -torch.inf)
    kept, counts = keep_best_per_image(
        boxes,
        kept_scores,
        image,
        label,
        len(sizes),
        settings.nms_iou,
        settings.detections_per_image,
    )
    return SelectedBoxes(
        rois=torch.cat((image[kept, None].to(boxes.dtype), boxes[kept]), dim=1),
        scores=kept_scores[kept],
        labels=label[kept],
        counts=counts,
    )
