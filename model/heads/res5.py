"""The box head that reads the map of res4: the backbone's last stage, run on each ROI.

Shapes: R ROIs of the whole batch, C channels of res4, D of res5, S pooled side.
Source: He et al. 2017, figure 4, left; Ren et al. 2017 (arXiv:1504.06066).
"""

from torch import Tensor

from model.backbones.resnet import ResNetStages, initialise_convolutions
from model.heads.box import BoxHead


class Res5BoxHead(BoxHead):
    """The stage ``res5``, whose maps the mask head shares, and an average of them to judge by.

    Args:
        stages: what the backbone is made of.
        num_classes: K, without the background.
        frozen: whether res5 neither trains nor moves its statistics.
        class_agnostic: one box for all classes.
    """

    def __init__(
        self, stages: ResNetStages, num_classes: int, frozen: bool, class_agnostic: bool = False
    ) -> None:
        super().__init__(stages.channels(5), num_classes, class_agnostic)
        self.res5 = stages.build(5)
        initialise_convolutions(self.res5)
        self.frozen = frozen
        self.res5.requires_grad_(not frozen)

    def describe(self, pooled: Tensor) -> Tensor:
        """The maps of R ROIs, (R, D, S / 2, S / 2), from their pooled features (R, C, S, S)."""
        maps: Tensor = self.res5(pooled)
        return maps

    def predict(self, described: Tensor) -> tuple[Tensor, Tensor]:
        """Judge R ROIs by the average of their maps, (R, D, S / 2, S / 2); see ``BoxHead``."""
        return super().predict(described.mean((2, 3)))

    def train(self, mode: bool = True) -> "Res5BoxHead":
        """Set training mode; the statistics of a frozen res5 stay as they are."""
        super().train(mode)
        if self.frozen:
            self.res5.eval()
        return self
