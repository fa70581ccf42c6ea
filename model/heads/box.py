"""The box head: what each proposal shows, and where exactly its box is.

Shapes: B images, R ROIs of the whole batch, K classes (0 is the background), S pooled side.
Source: Girshick 2015, section 2.3; two fully connected layers, Lin et al. 2017, section 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.box_coding import BoxCoder
from model.config import BoxHeadConfig
from model.convolution import infers_on_cpu
from model.derived_weights import derived
from model.matching import POSITIVE, match_boxes
from model.sampling import PROPOSALS, sample_candidates
from model.structures import LossTerm, Targets
from model.truths import join_truths


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

    Args:
        rois: (R, 5) float32: image index and box, pixels.
        labels: (R,) int64, 0 for background.
        truth_boxes: (R, 4) float32, the matched object's box; of no meaning for background.
        truths: (R,) int64, the matched object, counted within its image.
    """

    rois: Tensor
    labels: Tensor
    truth_boxes: Tensor
    truths: Tensor

    def positive(self) -> "TrainingRois":
        """Those that show an object."""
        chosen = self.labels.nonzero().squeeze(1)
        return TrainingRois(
            self.rois[chosen], self.labels[chosen], self.truth_boxes[chosen], self.truths[chosen]
        )


@torch.no_grad()
def choose_training_rois(
    proposals: Sequence[Tensor],
    targets: Sequence[Targets],
    seeds: Sequence[int],
    settings: BoxHeadConfig,
) -> TrainingRois:
    """Sample proposals for the ROI heads, after adding the true boxes to them.

    Args:
        proposals: per image (P_b, 4) float32, pixels.
        targets: per image.
        seeds: per image, for the random choice.
        settings: thresholds and number of samples.
    """
    candidates = [
        torch.cat((boxes, target.boxes.float()))
        for boxes, target in zip(proposals, targets, strict=True)
    ]
    matches = [
        match_boxes(boxes, target.boxes.float(), settings.positive_iou, settings.positive_iou)
        for boxes, target in zip(candidates, targets, strict=True)
    ]
    samples = sample_candidates(
        [match.verdict for match in matches],
        settings.samples_per_image,
        settings.positive_fraction,
        seeds,
        PROPOSALS,
    )
    meant = torch.cat((samples.is_positive, samples.is_negative), dim=1)
    chosen = torch.cat((samples.positive, samples.negative), dim=1)
    image, column = meant.nonzero(as_tuple=True)
    starts = torch.tensor([0] + [len(boxes) for boxes in candidates[:-1]], device=meant.device)
    flat = chosen[image, column] + starts.cumsum(0)[image]
    truths = torch.cat([match.truth for match in matches])[flat]
    verdict = torch.cat([match.verdict for match in matches])[flat]
    batch = join_truths(targets, meant.device)
    matched = truths + batch.first[image]
    boxes = torch.cat(candidates)[flat]
    return TrainingRois(
        rois=torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1),
        labels=torch.where(verdict == POSITIVE, batch.labels[matched], 0),
        truth_boxes=batch.boxes[matched],
        truths=truths,
    )


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
        box_class and box_regression, both counted over all R ROIs.
    """
    positive = chosen.labels.nonzero().squeeze(1)
    targets = coder.encode(chosen.truth_boxes[positive], chosen.rois[positive, 1:])
    distance = F.smooth_l1_loss(
        deltas[positive, chosen.labels[positive]], targets, beta=smooth_l1_beta, reduction="sum"
    )
    count = torch.full((), len(logits), device=logits.device)
    return {
        "box_class": LossTerm(F.cross_entropy(logits, chosen.labels, reduction="sum"), count),
        "box_regression": LossTerm(distance, count),
    }
