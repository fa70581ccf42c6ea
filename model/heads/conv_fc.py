"""The box head that reads a pyramid: convolutions, where wanted, and fully connected layers.

Shapes: R ROIs of the whole batch, C channels, S pooled side.
Source: two fully connected layers, Lin et al. 2017, section 4.2; four convolutions with norms and
one fully connected layer, Wu & He 2018, section 4.2.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from model.heads.box import BoxHead
from model.layers.conv_stack import convolve_in_turn, make_convolutions
from model.layers.convolution import infers_on_cpu
from model.layers.norm import make_norms
from model.layers.weight_cache import derived


class ConvFcBoxHead(BoxHead):
    """3x3 convolutions and fully connected layers ``fc1``, ``fc2`` .. before the predictors.

    Args:
        channels: C of the pooled features.
        pool_side: S.
        num_classes: K, without the background.
        hidden: width of the fully connected layers.
        fc_layers: how many there are.
        conv_layers: number of convolutions before them.
        conv_channels: of the convolutions.
        norm: after each convolution: none, frozen_bn, batch_norm or group_norm.
        fc_norm: after each fully connected layer: none or group_norm.
        class_agnostic: one box for all classes.
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
        self.convs = make_convolutions(channels, conv_channels, conv_layers, bias=norm == "none")
        self.norms = make_norms(norm, conv_channels, conv_layers)
        flat = (conv_channels if conv_layers else channels) * pool_side**2
        self._hidden = tuple(f"fc{number}" for number in range(1, fc_layers + 1))
        sides = pairwise((flat, *[hidden] * fc_layers))
        for name, (inputs, outputs) in zip(self._hidden, sides, strict=True):
            layer = nn.Linear(inputs, outputs, bias=fc_norm == "none")
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if fc_norm == "none":
                nn.init.zeros_(layer.bias)
            self.add_module(name, layer)
        self.fc_norms = make_norms(fc_norm, hidden, fc_layers)

    def describe(self, pooled: Tensor) -> Tensor:
        """What R ROIs show, (R, hidden), from their pooled features (R, C, S, S)."""
        x = convolve_in_turn(pooled, self.convs, self.norms)
        first: nn.Linear = getattr(self, self._hidden[0])
        # Pooled features have channels innermost. To reorder the weights is cheaper than to
        # reorder them, whose order in memory torchvision's weights expect otherwise.
        rows = x.permute(0, 2, 3, 1).flatten(1)
        hidden = self._activate(0, F.linear(rows, _channels_innermost(first, x), first.bias))
        for number, name in enumerate(self._hidden[1:], start=1):
            hidden = self._activate(number, getattr(self, name)(hidden))
        return hidden

    def _activate(self, number: int, x: Tensor) -> Tensor:
        return F.relu_(self.fc_norms[number](x) if self.fc_norms else x)


def _channels_innermost(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's weight in the order of features x; in inference kept on the CPU."""
    shape, weight = x.shape[1:], layer.weight

    def reorder() -> Tensor:
        return weight.view(-1, *shape).permute(0, 2, 3, 1).flatten(1)

    return derived(layer, [weight], shape, reorder) if infers_on_cpu(x) else reorder()
