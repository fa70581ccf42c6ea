"""The box head: what each proposal shows, and where exactly its box is.

Shapes: R ROIs of the whole batch, K classes (0 is the background), F numbers that describe an ROI.
Source: Girshick 2015, section 2.3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.boxes.coding import BoxCoder
from model.heads.training_rois import TrainingRois
from model.structures import LossTerm


class BoxHead(nn.Module):
    """A score per class, and a box per class or one for all, from a description of the ROI.

    What describes it is the subclass's: ``ConvFcBoxHead`` or ``Res5BoxHead``.

    Args:
        width: F.
        num_classes: K, without the background.
        class_agnostic: one box for all classes.
    """

    def __init__(self, width: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.boxes = 1 if class_agnostic else num_classes + 1
        self.class_logits = nn.Linear(width, num_classes + 1)
        self.box_deltas = nn.Linear(width, 4 * self.boxes)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.class_logits, self.box_deltas):
            nn.init.zeros_(layer.bias)

    def describe(self, pooled: Tensor) -> Tensor:
        """What R ROIs show, from their pooled features (R, C, S, S)."""
        raise NotImplementedError

    def predict(self, described: Tensor) -> tuple[Tensor, Tensor]:
        """Judge R ROIs.

        Args:
            described: (R, F), from :meth:`describe`.

        Returns:
            Class logits (R, K + 1) and box deltas (R, K + 1, 4), or (R, 1, 4) of all classes;
            float32.
        """
        deltas: Tensor = self.box_deltas(described).float()
        return self.class_logits(described).float(), deltas.view(deltas.shape[0], self.boxes, 4)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`predict` of what :meth:`describe` makes of pooled features (R, C, S, S)."""
        return self.predict(self.describe(pooled))


def box_losses(
    logits: Tensor, deltas: Tensor, chosen: TrainingRois, coder: BoxCoder, smooth_l1_beta: float
) -> dict[str, LossTerm]:
    """Cross-entropy over classes, and smooth L1 of the true class's box on positives.

    Args:
        logits: (R, K + 1) float32.
        deltas: (R, K + 1, 4) float32, or (R, 1, 4) of all classes.
        chosen: the R ROIs.
        coder: of the box deltas.
        smooth_l1_beta: where the box loss turns from square to linear; 0 is plain L1.

    Returns:
        box_class and box_regression, both counted over all ROIs that are meant.
    """
    surprise = F.cross_entropy(logits, chosen.labels, reduction="none")
    positive = chosen.positive()
    own_class = positive.labels[:, None, None].expand(-1, 1, 4)
    of_each_class = deltas[chosen.positive_slots].expand(-1, logits.shape[1], -1)
    predicted = of_each_class.gather(1, own_class).squeeze(1)
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
