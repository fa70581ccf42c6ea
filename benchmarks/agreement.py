"""Whether two detectors with the same weights detect the same objects.

D detections of ours, E of the peer, H W pixels of the image.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.detections import Detections

# Another order of summation moves boxes by 0.001 px and scores by 1e-5; masks differ where a
# probability is within that of the threshold.
BOX_TOLERANCE = 0.05
SCORE_TOLERANCE = 1e-3
MIN_MASK_IOU = 0.99


def count_equal(ours: Detections, peer: Mapping[str, Tensor]) -> int:
    """Return how many detections are equal: class, box, score and, if there are any, masks.

    Args:
        ours: D detections.
        peer: boxes (E, 4), scores (E,), labels (E,), and masks (E, H, W) bool or none.
    """
    if not len(ours) or not len(peer["scores"]):
        return 0
    distance = (ours.boxes[:, None] - peer["boxes"]).abs().amax(2)  # (D, E)
    distance[ours.labels[:, None] != peer["labels"]] = torch.inf
    box, nearest = distance.min(1)
    score = (ours.scores - peer["scores"][nearest]).abs()
    equal = (box <= BOX_TOLERANCE) & (score <= SCORE_TOLERANCE)
    if "masks" in peer:
        equal &= _mask_iou(ours.bitmaps().bool(), peer["masks"][nearest]) >= MIN_MASK_IOU
    # Each detection of the peer counts once.
    return len(set(nearest[equal].tolist()))


def _mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of each pair of bitmaps (D, H, W) bool; 1 if both are empty."""
    union = (first | second).sum((1, 2))
    shared = (first & second).sum((1, 2))
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)
