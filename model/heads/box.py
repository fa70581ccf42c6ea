"""The box head: the class of each ROI and its refined box.

Shapes as in ``model.structures``; pooled features have side N.
Source: Girshick 2015, section 2.3.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.resnet import ResNetStages, init_convolutions
from model.boxes.coding import BoxCoder
from model.heads.training_rois import TrainingRois
from model.layers.conv_stack import init_kaiming_normal, make_conv_stack, run_conv_stack
from model.layers.convolution import infers_on_cpu
from model.layers.norm import make_norms
from model.layers.weight_cache import cached_from_weights
from model.structures import LossTerm


class BoxHead(nn.Module):
    """A score per class, and a box per class or one for all, from features of the ROI.

    Subclasses extract the features.

    Args:
        width: number of features per ROI.
        num_classes: K, without the background.
        class_agnostic: predict one box for all classes.
    """

    def __init__(self, width: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.num_boxes = 1 if class_agnostic else num_classes + 1
        self.class_logits = nn.Linear(width, num_classes + 1)
        self.box_deltas = nn.Linear(width, 4 * self.num_boxes)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.class_logits, self.box_deltas):
            nn.init.zeros_(layer.bias)

    def extract(self, pooled: Tensor) -> Tensor:
        """Return the features of R ROIs from their pooled feature maps (R, C, N, N)."""
        raise NotImplementedError

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score the classes of R ROIs and predict their box deltas.

        Args:
            features: (R, width), from :meth:`extract`.

        Returns:
            Class logits (R, K + 1) and box deltas (R, K + 1, 4), or (R, 1, 4) shared by all
            classes; float32.
        """
        deltas: Tensor = self.box_deltas(features).float()
        return self.class_logits(features).float(), deltas.view(deltas.shape[0], self.num_boxes, 4)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and box deltas from pooled feature maps (R, C, N, N)."""
        return self.predict(self.extract(pooled))


class ConvFcBoxHead(BoxHead):
    """3x3 convolutions and fully connected layers ``fc1``, ``fc2``, .. before the predictors.

    Source: two fully connected layers, Lin et al. 2017, section 4.2; four convolutions with norms
    and one fully connected layer, Wu & He 2018, section 4.2.

    Args:
        channels: C of the pooled feature maps.
        pool_side: N.
        num_classes: K, without the background.
        hidden: width of the fully connected layers.
        fc_layers: number of fully connected layers.
        conv_layers: number of convolutions before them.
        conv_channels: channels of the convolutions.
        norm: norm after each convolution: none, frozen_bn, batch_norm or group_norm.
        fc_norm: norm after each fully connected layer: none or group_norm.
        class_agnostic: predict one box for all classes.
    """

    def __init__(
        self,
        channels: int,
        pool_side: int,
        num_classes: int,
        hidden: int = 1024,
        fc_layers: int = 2,
        conv_layers: int = 0,
        conv_channels: int = 256,
        norm: str = "none",
        fc_norm: str = "none",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__(hidden, num_classes, class_agnostic)
        self.convs = make_conv_stack(channels, conv_channels, conv_layers, bias=norm == "none")
        init_kaiming_normal(self.convs)
        self.norms = make_norms(norm, conv_channels, conv_layers)
        flat = (conv_channels if conv_layers else channels) * pool_side**2
        self._fc_names = tuple(f"fc{number}" for number in range(1, fc_layers + 1))
        widths = pairwise((flat, *[hidden] * fc_layers))
        for name, (inputs, outputs) in zip(self._fc_names, widths, strict=True):
            layer = nn.Linear(inputs, outputs, bias=fc_norm == "none")
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if fc_norm == "none":
                nn.init.zeros_(layer.bias)
            self.add_module(name, layer)
        self.fc_norms = make_norms(fc_norm, hidden, fc_layers)

    def extract(self, pooled: Tensor) -> Tensor:
        """Return (R, hidden) from pooled feature maps (R, C, N, N)."""
        x = run_conv_stack(pooled, self.convs, self.norms)
        fc1: nn.Linear = getattr(self, self._fc_names[0])
        # Pooled features are in channels_last layout; the weights expect channels first, as
        # torchvision's do. Reordering the weights costs less than reordering the features.
        rows = x.permute(0, 2, 3, 1).flatten(1)
        hidden = self._norm_and_relu(0, F.linear(rows, _channels_last_weight(fc1, x), fc1.bias))
        for number, name in enumerate(self._fc_names[1:], start=1):
            hidden = self._norm_and_relu(number, getattr(self, name)(hidden))
        return hidden

    def _norm_and_relu(self, number: int, x: Tensor) -> Tensor:
        return F.relu_(self.fc_norms[number](x) if self.fc_norms else x)


class Res5BoxHead(BoxHead):
    """The box head of a C4 backbone: res5 on each ROI, averaged. The mask head shares its maps.

    Source: He et al. 2017, figure 4, left; Ren et al. 2017 (arXiv:1504.06066).

    Args:
        stages: how to build res5.
        num_classes: K, without the background.
        frozen: whether res5 neither trains nor updates its norm statistics.
        class_agnostic: predict one box for all classes.
    """

    def __init__(
        self, stages: ResNetStages, num_classes: int, frozen: bool, class_agnostic: bool = False
    ) -> None:
        super().__init__(stages.channels(5), num_classes, class_agnostic)
        self.res5 = stages.build(5)
        init_convolutions(self.res5)
        self.frozen = frozen
        self.res5.requires_grad_(not frozen)

    def extract(self, pooled: Tensor) -> Tensor:
        """Return res5 maps (R, C', N / 2, N / 2) from pooled feature maps (R, C, N, N)."""
        maps: Tensor = self.res5(pooled)
        return maps

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and box deltas, as ``BoxHead`` does, from the averaged maps."""
        return super().predict(features.mean((2, 3)))

    def train(self, mode: bool = True) -> "Res5BoxHead":
        """Set training mode, but keep the norm statistics of a frozen res5 fixed."""
        super().train(mode)
        if self.frozen:
            self.res5.eval()
        return self


def box_losses(
    logits: Tensor,
    deltas: Tensor,
    rois: TrainingRois,
    coder: BoxCoder,
    smooth_l1_beta: float,
    class_weights: Tensor | None = None,
) -> dict[str, LossTerm]:
    """Return the cross-entropy over classes and the smooth L1 loss of positive boxes.

    Args:
        logits: (R, K + 1) float32.
        deltas: (R, K + 1, 4) float32, or (R, 1, 4) shared by all classes.
        rois: the R sampled ROIs.
        coder: box coder of the deltas.
        smooth_l1_beta: where the box loss turns from quadratic to linear; 0 is plain L1.
        class_weights: (K + 1,) weight of each label in the cross-entropy; None weighs all alike.

    Returns:
        box_class and box_regression; the count of both is the number of valid ROIs.
    """
    class_loss = F.cross_entropy(logits, rois.labels, class_weights, reduction="none")
    positive = rois.positive()
    gt_class = positive.labels[:, None, None].expand(-1, 1, 4)
    per_class = deltas[rois.positive_slots].expand(-1, logits.shape[1], -1)
    predicted = per_class.gather(1, gt_class).squeeze(1)
    # Boxes in padding have no extent, and their deltas are NaN.
    target_deltas = torch.where(
        positive.valid[:, None], coder.encode(positive.gt_boxes, positive.rois[:, 1:]), 0.0
    )
    box_loss = F.smooth_l1_loss(predicted, target_deltas, beta=smooth_l1_beta, reduction="none")
    count = rois.valid.sum()
    return {
        "box_class": LossTerm((class_loss * rois.valid).sum(), count),
        "box_regression": LossTerm((box_loss * positive.valid[:, None]).sum(), count),
    }


def _channels_last_weight(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the layer's weight for features x in channels_last order; cached on the CPU."""
    shape, weight = x.shape[1:], layer.weight

    def reorder() -> Tensor:
        return weight.view(-1, *shape).permute(0, 2, 3, 1).flatten(1)

    return cached_from_weights(layer, [weight], shape, reorder) if infers_on_cpu(x) else reorder()
