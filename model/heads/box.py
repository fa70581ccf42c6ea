"""The box head: what each proposal shows, and where exactly its box is.

Shapes: B images, R ROIs of the whole batch, K classes (0 is the background), S pooled side.
Source: Girshick 2015, section 2.3; two fully connected layers, Lin et al. 2017, section 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.box_coding import BoxCoder
from model.config import BoxHeadConfig
from model.convolution import infers_on_cpu
from model.derived_weights import derived
from model.matching import match_to_objects
from model.sampling import PROPOSALS, sample_candidates
from model.structures import LossTerm, Proposals
from model.truths import BatchTruths
from ops_cuda import IGNORED


class BoxHead(nn.Module):
    """Two hidden layers, then a score per class and a box per class.

    Args:
        channels: of the pooled features.
        pool_side: S.
        hidden: width of the hidden layers.
        num_classes: K, without the background.
    """

    def __init__(self, channels: int, pool_side: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * pool_side**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.class_logits = nn.Linear(hidden, num_classes + 1)
        self.box_deltas = nn.Linear(hidden, 4 * (num_classes + 1))
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.class_logits, self.box_deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Judge R ROIs.

        Args:
            pooled: (R, C, S, S).

        Returns:
            Class logits (R, K + 1) and box deltas (R, K + 1, 4), float32.
        """
        # Pooled features have channels innermost. To reorder the weights is cheaper than to
        # reorder them, whose order in memory torchvision's weights expect otherwise.
        rows = pooled.permute(0, 2, 3, 1).flatten(1)
        hidden = F.relu_(F.linear(rows, self._channels_innermost(pooled), self.fc1.bias))
        hidden = F.relu_(self.fc2(hidden))
        logits = self.class_logits(hidden).float()
        return logits, self.box_deltas(hidden).float().view(*logits.shape, 4)

    def _channels_innermost(self, pooled: Tensor) -> Tensor:
        """The first layer's weight in the pooled features' order; in inference kept on the CPU."""
        shape, weight = pooled.shape[1:], self.fc1.weight

        def reorder() -> Tensor:
            return weight.view(-1, *shape).permute(0, 2, 3, 1).flatten(1)

        return derived(self.fc1, [weight], shape, reorder) if infers_on_cpu(pooled) else reorder()


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


def box_losses(
    logits: Tensor, deltas: Tensor, chosen: TrainingRois, coder: BoxCoder, smooth_l1_beta: float
) -> dict[str, LossTerm]:
    """Cross-entropy over classes, and smooth L1 of the true class's box on positives.

    Args:
        logits: (R, K + 1) float32.
        deltas: (R, K + 1, 4) float32.
        chosen: the R ROIs.
        coder: of the box deltas.
        smooth_l1_beta: where the box loss turns from square to linear; 0 is plain L1.

    Returns:
        box_class and box_regression, both counted over all ROIs that are meant.
    """
    surprise = F.cross_entropy(logits, chosen.labels, reduction="none")
    positive = chosen.positive()
    own_class = positive.labels[:, None, None].expand(-1, 1, 4)
    predicted = deltas[chosen.positive_slots].gather(1, own_class).squeeze(1)
    # Empty slots have boxes without sides, whose deltas are no numbers.
    wanted = torch.where(
        positive.is_meant[:, None], coder.encode(positive.truth_boxes, positive.rois[:, 1:]), 0.0
    )
    distance = F.smooth_l1_loss(predicted, wanted, beta=smooth_l1_beta, reduction="none")
    count = chosen.is_meant.sum()
    return {
        "box_class": LossTerm((surprise * chosen.is_meant).sum(), count),
        "box_regression": LossTerm((distance * positive.is_meant[:, None]).sum(), count),
    }
