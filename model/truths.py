"""The objects of a whole batch in flat tensors, so that losses gather without a loop over images.

Shapes: B images, G objects of all images together, R boxes that were matched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.structures import Targets


@dataclass(frozen=True)
class BatchTruths:
    """Objects of all images, image after image, and a last row of zeros.

    The last row makes index 0 of an image without objects valid; it never counts.

    Args:
        boxes: (G + 1, 4) float32, pixels.
        labels: (G + 1,) int64.
        first: (B,) int64, row of each image's first object.
    """

    boxes: Tensor
    labels: Tensor
    first: Tensor


def join_truths(targets: Sequence[Targets], device: torch.device) -> BatchTruths:
    """Concatenate the boxes and labels of a batch."""
    boxes = [target.boxes.float() for target in targets]
    labels = [target.labels for target in targets]
    return BatchTruths(
        torch.cat([*boxes, torch.zeros(1, 4, device=device)]),
        torch.cat([*labels, torch.zeros(1, dtype=torch.int64, device=device)]),
        torch.tensor(_starts([len(target) for target in targets]), device=device),
    )


def _starts(lengths: Sequence[int]) -> list[int]:
    starts = [0]
    for length in lengths[:-1]:
        starts.append(starts[-1] + length)
    return starts
