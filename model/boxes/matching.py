"""Match anchors and proposals to the ground-truth objects they are trained to detect."""

from typing import NamedTuple

from torch import Tensor

from model.structures import BatchTargets
from ops_cuda import match_boxes


class Matches(NamedTuple):
    """How N candidates of each image match its ground truth.

    Args:
        gt_indices: (B, N) int64, row in ``BatchTargets`` of the object of the same image with the
            highest IoU; ``offsets[b]`` if nothing overlaps. In an image without objects that is a
            row of the next image or the zero row, which never counts: nothing is positive there.
        labels: (B, N) int64, match labels POSITIVE, NEGATIVE or IGNORED.
    """

    gt_indices: Tensor
    labels: Tensor


def match_to_targets(
    candidates: Tensor,
    targets: BatchTargets,
    positive_iou: float,
    negative_iou: float,
    allow_low_quality: bool = False,
) -> Matches:
    """Match each candidate box to the object of its image with the highest IoU.

    Args:
        candidates: (B, N, 4) float32, pixels; (1, N, 4) if all images share them.
        targets: ground truth of the batch.
        positive_iou: candidates with at least this IoU are positive.
        negative_iou: candidates below this IoU are negative; those in between are ignored.
        allow_low_quality: also make the candidates with the highest IoU of each object positive, so
            that every object has at least one.

    Source: Ren et al. 2015, section 3.1.2.
    """
    in_image, labels = match_boxes(
        candidates, targets.boxes, targets.offsets, positive_iou, negative_iou, allow_low_quality
    )
    return Matches(in_image + targets.offsets[:-1, None], labels)
