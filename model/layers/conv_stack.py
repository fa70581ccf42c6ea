"""Stacks of 3x3 convolutions, with which RPN, RetinaNet and the ROI heads begin."""

from itertools import repeat

from torch import Tensor, nn

from model.layers.convolution import convolve


def make_conv_stack(
    in_channels: int, channels: int, layers: int, bias: bool = True
) -> nn.ModuleList:
    """Return ``layers`` 3x3 convolutions that keep the size, with torch's initialization."""
    return nn.ModuleList(
        nn.Conv2d(in_channels if layer == 0 else channels, channels, 3, padding=1, bias=bias)
        for layer in range(layers)
    )


def run_conv_stack(x: Tensor, convs: nn.ModuleList, norms: nn.ModuleList | None = None) -> Tensor:
    """Apply each convolution, its norm if there is one, and a ReLU.

    Args:
        x: (N, C, H, W).
        convs: convolutions from :func:`make_conv_stack`.
        norms: one per convolution, or none.

    Returns:
        (N, channels, H, W).
    """
    for conv, norm in zip(convs, norms or repeat(None, len(convs)), strict=True):
        x = convolve(x, conv, norm, relu=True)  # type: ignore[arg-type]
    return x


def init_kaiming_normal(convs: nn.ModuleList) -> None:
    """Initialize as in He et al. 2015 for ReLU networks, by fan-out; biases are zero."""
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
