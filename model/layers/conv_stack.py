"""The 3x3 convolutions that the heads begin with.

Shapes: R ROIs, C channels, S side.
"""

from itertools import repeat

from torch import Tensor, nn

from model.layers.convolution import convolve


def make_convolutions(in_channels: int, channels: int, layers: int, bias: bool) -> nn.ModuleList:
    """``layers`` convolutions that keep the size, at He et al.'s initialisation (2015)."""
    convs = nn.ModuleList(
        nn.Conv2d(in_channels if layer == 0 else channels, channels, 3, padding=1, bias=bias)
        for layer in range(layers)
    )
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        if bias:
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return convs


def convolve_in_turn(x: Tensor, convs: nn.ModuleList, norms: nn.ModuleList) -> Tensor:
    """Each convolution, its norm where there are norms, and ReLU: (R, C_in, S, S) to (R, C, S, S).

    Args:
        x: (R, C_in, S, S).
        convs: from :func:`make_convolutions`.
        norms: one per convolution, or none.
    """
    for conv, norm in zip(convs, norms or repeat(None, len(convs)), strict=True):
        x = convolve(x, conv, norm, relu=True)  # type: ignore[arg-type]
    return x
