"""The objects of a whole batch in flat tensors, so that losses gather without a loop over images.

Shapes: B images, G objects of all images together, R boxes that were matched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from model.structures import Targets
from model.structures.transfer import integers_on


@dataclass(frozen=True)
class BatchTruths:
    """Objects of all images, image after image, and a last row of zeros.

    The last row makes index 0 of an image without objects valid; it never counts.

    Args:
        boxes: (G + 1, 4) float32, pixels.
        labels: (G + 1,) int64.
        offsets: (B + 1,) int64: image b owns rows offsets[b]:offsets[b + 1].
        most: objects of the image that has most.
    """

    boxes: Tensor
    labels: Tensor
    offsets: Tensor
    most: int

    @property
    def first(self) -> Tensor:
        """(B,) int64, row of each image's first object."""
        return self.offsets[:-1]

    @property
    def counts(self) -> Tensor:
        """(B,) int64, objects of each image."""
        return self.offsets.diff()


def join_truths(targets: Sequence[Targets], device: torch.device) -> BatchTruths:
    """Concatenate the boxes and labels of a batch."""
    boxes = [target.boxes.float() for target in targets]
    labels = [target.labels for target in targets]
    return BatchTruths(
        torch.cat([*boxes, torch.zeros(1, 4, device=device)]),
        torch.cat([*labels, torch.zeros(1, dtype=torch.int64, device=device)]),
        integers_on(device, list(accumulate((len(target) for target in targets), initial=0))),
        max((len(target) for target in targets), default=0),
    )
