"""Deformable 3x3 convolutions: a convolution beside the layer says where its taps read.

Shapes: B images, C O channels in and out, T taps of the kernel, H W of the map.
Source: Dai et al. 2017; with modulation, Zhu et al. 2019.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.convolution import convolve
from model.layers.norm import fold_norm, is_fixed
from ops_cuda import deform_conv2d

# Rows of the convolution that predicts them, per tap: a place has two, v2 a weight besides.
_ROWS_PER_TAP = {"v1": 2, "v2": 3}


def make_offsets(layer: nn.Conv2d, kind: str) -> nn.Conv2d:
    """The convolution that moves the taps of ``layer``: zero until it has learned.

    Args:
        layer: the convolution that becomes deformable.
        kind: v1 or v2.

    Returns:
        Of 2 T offsets, row and column of each tap, and for v2 of T modulations after them. At zero
        v1 is an ordinary convolution and v2 half of one.
    """
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    offsets = nn.Conv2d(
        layer.in_channels,
        _ROWS_PER_TAP[kind] * taps,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
    )
    reset_offsets(offsets)
    return offsets


def reset_offsets(offsets: nn.Conv2d) -> None:
    """Back to zero."""
    nn.init.zeros_(offsets.weight)
    if offsets.bias is not None:
        nn.init.zeros_(offsets.bias)


def convolve_deformed(x: Tensor, layer: nn.Conv2d, offsets: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``relu(norm(layer(x)))``, the taps of ``layer`` reading where ``offsets`` says.

    Args:
        x: (B, C, H, W).
        layer: holds the weights.
        offsets: from :func:`make_offsets`.
        norm: what normalises the output.

    Returns:
        (B, O, H', W').
    """
    predicted = convolve(x, offsets)
    places = 2 * layer.kernel_size[0] * layer.kernel_size[1]
    modulation = None
    if predicted.shape[1] > places:
        # A copy, as the operator would make: of a slice's strides a tracer would ask for sizes.
        modulation = predicted[:, places:].contiguous().sigmoid()
    fixed = is_fixed(norm)
    weight, bias = fold_norm(layer, norm) if fixed else (layer.weight, layer.bias)
    y = deform_conv2d(
        x,
        predicted[:, :places],
        weight,
        bias,
        modulation,
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
    )
    return F.relu_(y if fixed else norm(y))
