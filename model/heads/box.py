"""The box head: what each proposal shows, and where exactly its box is.

Shapes: R ROIs of the whole batch, K classes (0 is the background), S pooled side.
Source: Girshick 2015, section 2.3; two fully connected layers, Lin et al. 2017, section 4.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.box_coding import BoxCoder
from model.convolution import infers_on_cpu
from model.derived_weights import derived
from model.heads.training_rois import TrainingRois
from model.structures import LossTerm


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
