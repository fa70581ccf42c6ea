"""The proposals that the ROI heads learn from.

Shapes: B images, R ROIs of the whole batch.
Source: Girshick 2015, section 2.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes.matching import match_to_objects
from model.boxes.sampling import PROPOSALS, sample_candidates
from model.config import BoxHeadConfig
from model.structures import Proposals
from model.structures.batch_targets import BatchTruths
from ops_cuda import IGNORED


@dataclass(frozen=True)
class TrainingRois:
    """Proposals chosen for training, image after image.

    They come in slots, as many for every image, some of which mean nothing: only so can their
    number be known without waiting for the device.

    Args:
        rois: (R, 5) float32: image index and box, pixels; any box where nothing is meant.
        labels: (R,) int64, 0 for background and where nothing is meant.
        truth_boxes: (R, 4) float32, the matched object's box; of no meaning for background.
        truths: (R,) int64, the matched object, counted within its image.
        is_meant: (R,) bool.
        positive_slots: (R_p,) int64, the slots that may show an object.
    """

    rois: Tensor
    labels: Tensor
    truth_boxes: Tensor
    truths: Tensor
    is_meant: Tensor
    positive_slots: Tensor

    def positive(self) -> "TrainingRois":
        """The slots that may show an object; those that do are meant."""
        chosen = self._rows(self.positive_slots)
        return replace(chosen, is_meant=chosen.labels > 0)

    def compact(self) -> "TrainingRois":
        """Without the slots that mean nothing: less to compute, but waits for the device."""
        kept = self._rows(self.is_meant.nonzero().squeeze(1))
        return replace(kept, positive_slots=kept.labels.nonzero().squeeze(1))

    def _rows(self, rows: Tensor) -> "TrainingRois":
        return TrainingRois(
            self.rois[rows],
            self.labels[rows],
            self.truth_boxes[rows],
            self.truths[rows],
            self.is_meant[rows],
            torch.arange(len(rows), device=rows.device),
        )


@torch.no_grad()
def choose_training_rois(
    proposals: Proposals,
    truths: BatchTruths,
    seeds: Sequence[int],
    settings: BoxHeadConfig,
) -> TrainingRois:
    """Sample proposals for the ROI heads, after adding the true boxes to them.

    Args:
        proposals: of B images.
        truths: their objects.
        seeds: per image, for the random choice.
        settings: thresholds and number of samples.

    Returns:
        As many slots for every image: ``settings.samples_per_image``, or all its candidates' rows
        where those are fewer.
    """
    candidates = add_objects(proposals, truths)
    matches = match_to_objects(
        candidates.boxes, truths, settings.positive_iou, settings.positive_iou
    )
    chosen = sample_candidates(
        torch.where(candidates.present(), matches.verdict, IGNORED),
        settings.samples_per_image,
        settings.positive_fraction,
        seeds,
        PROPOSALS,
    )
    truth = matches.truth.gather(1, chosen.candidate)
    # Of an image without objects the row after its last: another's first, or zeros. Never counted.
    matched = truth + truths.first[:, None]
    boxes = candidates.boxes.gather(1, chosen.candidate[..., None].expand(-1, -1, 4))
    image = torch.arange(len(boxes), device=boxes.device)[:, None, None].expand(*truth.shape, 1)
    slots = torch.arange(truth.numel(), device=truth.device).view_as(truth)
    return TrainingRois(
        rois=torch.cat((image.to(boxes.dtype), boxes), dim=2).flatten(0, 1),
        labels=torch.where(chosen.is_positive, truths.labels[matched], 0).flatten(),
        truth_boxes=truths.boxes[matched].flatten(0, 1),
        truths=truth.flatten(),
        is_meant=(chosen.is_positive | chosen.is_negative).flatten(),
        positive_slots=slots[:, : chosen.most_positive].flatten(),
    )


def add_objects(proposals: Proposals, truths: BatchTruths) -> Proposals:
    """The proposals of each image, after them its true boxes.

    Where an image's candidates stand depends on the image alone, not on how many rows the
    batch has: the random choice is by their place.
    """
    nth = torch.arange(truths.most, device=proposals.boxes.device)
    own = nth < truths.counts[:, None]
    rows = torch.where(own, truths.first[:, None] + nth, len(truths.boxes) - 1)
    places = (proposals.counts[:, None] + nth)[..., None].expand(-1, -1, 4)
    room = F.pad(proposals.boxes, (0, 0, 0, truths.most))
    return Proposals(room.scatter(1, places, truths.boxes[rows]), proposals.counts + truths.counts)
