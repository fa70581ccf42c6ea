"""Sample the proposals that the ROI heads are trained on.

Shapes as in ``model.structures``; R = B * S slots for ROIs.
Source: Girshick 2015, section 2.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.matching import match_to_targets
from model.boxes.sampling import PROPOSALS, sample_candidates
from model.config import BoxHeadConfig
from model.structures import BatchTargets, Proposals
from ops_cuda import IGNORED


@dataclass(frozen=True)
class TrainingRois:
    """ROIs sampled for training, image by image.

    Padded to a fixed count per image, so no device sync is needed; ``valid`` marks real samples.

    Args:
        rois: (R, 5) float32: image index and box, pixels; arbitrary boxes in padding.
        labels: (R,) int64, 0 for background and padding.
        gt_boxes: (R, 4) float32, box of the matched object; arbitrary for background.
        matched_gt_indices: (R,) int64, row of the matched object in ``BatchTargets``.
        valid: (R,) bool.
        positive_slots: (N,) int64, the slots that may hold positives.
    """

    rois: Tensor
    labels: Tensor
    gt_boxes: Tensor
    matched_gt_indices: Tensor
    valid: Tensor
    positive_slots: Tensor

    def positive(self) -> "TrainingRois":
        """Return the slots that may hold positives, with ``valid`` marking those that do."""
        slots = self._select(self.positive_slots)
        return replace(slots, valid=slots.labels > 0)

    def fewer_positive_slots(self, most: int) -> "TrainingRois":
        """Keep ``most`` of the slots that may hold positives: all that do, then any others.

        Args:
            most: at least the number of positives.
        """
        is_positive = self.labels[self.positive_slots] > 0
        first = is_positive.byte().argsort(descending=True, stable=True)[:most]
        # In their old order, image by image.
        return replace(self, positive_slots=self.positive_slots[first.sort().values])

    def without_padding(self) -> "TrainingRois":
        """Return the real samples only: less to compute, at the cost of a device sync."""
        kept = self._select(self.valid.nonzero().squeeze(1))
        return replace(kept, positive_slots=kept.labels.nonzero().squeeze(1))

    def _select(self, rows: Tensor) -> "TrainingRois":
        return TrainingRois(
            self.rois[rows],
            self.labels[rows],
            self.gt_boxes[rows],
            self.matched_gt_indices[rows],
            self.valid[rows],
            torch.arange(len(rows), device=rows.device),
        )


@torch.no_grad()
def sample_training_rois(
    proposals: Proposals,
    targets: BatchTargets,
    seeds: Sequence[int],
    settings: BoxHeadConfig,
) -> TrainingRois:
    """Append the ground-truth boxes to the proposals and sample ROIs from both.

    Args:
        proposals: proposals for B images.
        targets: their ground truth.
        seeds: one per image, for sampling.
        settings: IoU threshold and number of samples.

    Returns:
        S slots per image: ``settings.samples_per_image``, or the number of candidate rows if that
        is smaller.
    """
    candidates = append_ground_truth(proposals, targets)
    matches = match_to_targets(
        candidates.boxes, targets, settings.positive_iou, settings.positive_iou
    )
    samples = sample_candidates(
        torch.where(candidates.valid(), matches.labels, IGNORED),
        settings.samples_per_image,
        settings.positive_fraction,
        seeds,
        PROPOSALS,
    )
    gt_indices = matches.gt_indices.gather(1, samples.indices)
    boxes = candidates.boxes.gather(1, samples.indices[..., None].expand(-1, -1, 4))
    image = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    image = image.expand(*gt_indices.shape, 1).to(boxes.dtype)
    slots = torch.arange(gt_indices.numel(), device=boxes.device).view_as(gt_indices)
    return TrainingRois(
        rois=torch.cat((image, boxes), dim=2).flatten(0, 1),
        labels=torch.where(samples.is_positive, targets.labels[gt_indices], 0).flatten(),
        gt_boxes=targets.boxes[gt_indices].flatten(0, 1),
        matched_gt_indices=gt_indices.flatten(),
        valid=samples.valid.flatten(),
        positive_slots=slots[:, : samples.max_positives].flatten(),
    )


def append_ground_truth(proposals: Proposals, targets: BatchTargets) -> Proposals:
    """Append the ground-truth boxes of each image right after its proposals.

    Sampling hashes the row of a candidate, so rows must depend on the image alone and not on the
    padding of the batch.
    """
    device = proposals.boxes.device
    first, counts = targets.offsets[:-1], targets.offsets.diff()
    nth = torch.arange(targets.max_objects, device=device)
    exists = nth < counts[:, None]
    gt_rows = torch.where(exists, first[:, None] + nth, len(targets.boxes) - 1)
    rows = (proposals.counts[:, None] + nth)[..., None].expand(-1, -1, 4)
    padded = F.pad(proposals.boxes, (0, 0, 0, targets.max_objects))
    return Proposals(padded.scatter(1, rows, targets.boxes[gt_rows]), proposals.counts + counts)
