"""Deformable 3x3 convolutions: a second convolution predicts where the kernel taps sample.

Shapes as in ``model.structures``; N_t taps of the kernel.
Source: Dai et al. 2017; with modulation, Zhu et al. 2019.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.convolution import convolve
from model.layers.norm import fold_norm, is_fixed
from ops_cuda import deform_conv2d

# Output channels of the offset convolution per tap: y and x, in v2 also a modulation.
_CHANNELS_PER_TAP = {"v1": 2, "v2": 3}


def make_offset_conv(conv: nn.Conv2d, kind: str) -> nn.Conv2d:
    """Return the convolution that predicts the offsets of ``conv``, initialized to zero.

    Args:
        conv: the convolution that becomes deformable.
        kind: v1 or v2.

    Returns:
        A convolution to 2 N_t offsets, y and x of each tap, followed in v2 by N_t modulation
        logits. At zero, v1 is an ordinary convolution and v2 half of one.
    """
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    offset_conv = nn.Conv2d(
        conv.in_channels,
        _CHANNELS_PER_TAP[kind] * taps,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
    )
    init_offset_conv(offset_conv)
    return offset_conv


def init_offset_conv(offset_conv: nn.Conv2d) -> None:
    """Set weights and bias to zero."""
    nn.init.zeros_(offset_conv.weight)
    if offset_conv.bias is not None:
        nn.init.zeros_(offset_conv.bias)


def convolve_deformed(
    x: Tensor, conv: nn.Conv2d, offset_conv: nn.Conv2d, norm: nn.Module
) -> Tensor:
    """Return ``relu(norm(conv(x)))`` with the taps of ``conv`` moved by ``offset_conv(x)``.

    Args:
        x: (B, C, H, W).
        conv: holds the weights.
        offset_conv: from :func:`make_offset_conv`.
        norm: normalizes the output.

    Returns:
        (B, C_out, H', W').
    """
    predicted = convolve(x, offset_conv)
    num_offsets = 2 * conv.kernel_size[0] * conv.kernel_size[1]
    modulation = None
    if predicted.shape[1] > num_offsets:
        # The operator would copy anyway; copying here keeps strides of a slice out of traces.
        modulation = predicted[:, num_offsets:].contiguous().sigmoid()
    fixed = is_fixed(norm)
    weight, bias = fold_norm(conv, norm) if fixed else (conv.weight, conv.bias)
    y = deform_conv2d(
        x,
        predicted[:, :num_offsets],
        weight,
        bias,
        modulation,
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
    )
    return F.relu_(y if fixed else norm(y))
