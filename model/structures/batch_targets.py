"""The ground truth of a whole batch in flat tensors, so that losses gather without a loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from model.structures.batch_masks import join_masks
from model.structures.masks import InstanceMasks, MixedMasks
from model.structures.targets import Targets
from model.structures.transfer import map_tensors, tensor_on

_NO_MASKS = (
    "the mask head needs masks in every target; got None. If the dataset has no masks, "
    "set model.mask to null."
)


@dataclass(frozen=True)
class BatchTargets:
    """The G objects of a batch, image by image, and a last row of zeros.

    Image b owns rows ``offsets[b]:offsets[b + 1]``. The zero row keeps ``offsets[b]`` a valid index
    when the last images have no objects; it never counts in a loss.

    Args:
        boxes: (G + 1, 4) float32, pixels.
        labels: (G + 1,) int64, 1..K.
        offsets: (B + 1,) int64, on the device.
        counts: objects of each image, known to the host without a sync.
        masks: G + 1 masks, or None if the detector does not need them.
        keypoints: (G + 1, P, 3) float32, or None if the detector does not need them.
        image_ids: the dataset's id of each image, for error messages.
    """

    boxes: Tensor
    labels: Tensor
    offsets: Tensor
    counts: tuple[int, ...]
    masks: MixedMasks | None = None
    keypoints: Tensor | None = None
    image_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return B."""
        return len(self.counts)

    @property
    def max_objects(self) -> int:
        """Largest number of objects in an image."""
        return max(self.counts, default=0)

    def to(self, device: torch.device, non_blocking: bool = False) -> "BatchTargets":
        """Return the targets on ``device``."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def join_targets(
    targets: Sequence[Targets],
    device: torch.device,
    with_masks: bool = False,
    num_keypoints: int = 0,
) -> BatchTargets:
    """Concatenate the ground truth of a batch.

    About 180 small operations: on a GPU, join on the host and move the result.

    Args:
        targets: ground truth of each image, on ``device``.
        device: device of the batch.
        with_masks: whether the detector learns masks.
        num_keypoints: P of the keypoint head; 0 if there is none.

    Raises:
        ValueError: masks or keypoints are needed but missing, or there are not P keypoints.
    """
    counts = tuple(len(target) for target in targets)
    keypoints = [_check_keypoints(t.keypoints, num_keypoints) for t in targets if num_keypoints]
    return BatchTargets(
        boxes=torch.cat(
            [*(target.boxes.float() for target in targets), torch.zeros(1, 4, device=device)]
        ),
        labels=torch.cat(
            [
                *(target.labels for target in targets),
                torch.zeros(1, dtype=torch.int64, device=device),
            ]
        ),
        offsets=tensor_on(device, list(accumulate(counts, initial=0)), torch.int64),
        counts=counts,
        masks=join_masks([_require_masks(target) for target in targets], device)
        if with_masks
        else None,
        keypoints=torch.cat([*keypoints, torch.zeros(1, num_keypoints, 3, device=device)])
        if num_keypoints
        else None,
        image_ids=tuple(target.image_id for target in targets),
    )


def check_joined_targets(targets: BatchTargets, with_masks: bool, num_keypoints: int) -> None:
    """Raise unless joined targets have what a detector learns.

    Args:
        targets: ground truth of a batch.
        with_masks: whether the detector learns masks.
        num_keypoints: P of the keypoint head; 0 if there is none.

    Raises:
        ValueError: masks or keypoints are needed but missing, or there are not P keypoints.
    """
    if with_masks and targets.masks is None:
        raise ValueError(_NO_MASKS)
    if num_keypoints:
        _check_keypoints(targets.keypoints, num_keypoints)


def _require_masks(target: Targets) -> InstanceMasks:
    if target.masks is None:
        raise ValueError(_NO_MASKS)
    return target.masks


def _check_keypoints(keypoints: Tensor | None, count: int) -> Tensor:
    """Return the keypoints in float32."""
    if keypoints is None:
        raise ValueError(
            "the keypoint head needs keypoints in every target; got None. If the dataset has no "
            "keypoints, set model.keypoint to null."
        )
    if keypoints.shape[1] != count:
        raise ValueError(
            f"targets have {keypoints.shape[1]} keypoints per object, the keypoint head "
            f"{count}: model.keypoint.names must list those of the dataset, in its order"
        )
    return keypoints.float()
