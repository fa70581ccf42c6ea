"""Which object, if any, each anchor or proposal is trained to find.

Shapes: B images, N candidate boxes of an image.
"""

from typing import NamedTuple

from torch import Tensor

from model.structures.batch_targets import BatchTruths
from ops_cuda import match_boxes


class Matches(NamedTuple):
    """The verdict on N candidates of B images.

    Args:
        truth: (B, N) int64, the object of the same image with the largest overlap; 0 where there
            is none at all.
        verdict: (B, N) int64, POSITIVE, NEGATIVE or IGNORED.
    """

    truth: Tensor
    verdict: Tensor


def match_to_objects(
    candidates: Tensor,
    truths: BatchTruths,
    positive_iou: float,
    negative_iou: float,
    keep_best: bool = False,
) -> Matches:
    """Match each candidate to the object of its image that it overlaps most.

    Args:
        candidates: (B, N, 4) float32, pixels; (1, N, 4) where all images share them.
        truths: the objects.
        positive_iou: a candidate with at least this overlap is positive.
        negative_iou: one below this is negative; between the two it is ignored.
        keep_best: also make positive, for each object, the candidates that overlap it most, so that
            no object goes without.

    Source: Ren et al. 2015, section 3.1.2.
    """
    return Matches(
        *match_boxes(
            candidates, truths.boxes, truths.offsets, positive_iou, negative_iou, keep_best
        )
    )
