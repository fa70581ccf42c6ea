"""3x3 convolution with bias and ReLU for inference: Winograd's fewer products on the CPU."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import require_floating, require_one_device, require_positive
from ops_cuda.reference.conv import PANEL, PATCH_PIXELS


def pack_conv3x3(weight: Tensor) -> Tensor:
    """Transform filters for `conv3x3_relu`, once per model: they become four times as large.

    Args:
        weight: (O, C, 3, 3) float, O and C positive.

    Returns:
        (36, ceil(O / 32), C, 32) float32, without gradient: Winograd's 6 x 6 form of every filter,
        output channels in panels of 32 of which the last is filled with zeros. Computed in
        float64, then rounded.

    Raises:
        ValueError: the shape or type is not as above.

    Source: Lavin & Gray 2016 (arXiv:1509.09308), section 4.3.
    """
    if weight.ndim != 4 or weight.shape[2:] != (3, 3) or 0 in weight.shape:
        raise ValueError(
            f"weight must be (O, C, 3, 3), O and C positive; got {tuple(weight.shape)}"
        )
    require_floating("weight", weight)
    weight = weight.detach().float()
    if not library.compiled_for("pack_conv3x3", weight.device):
        return reference.pack_conv3x3(weight)
    packed: Tensor = torch.ops.ops_cuda.pack_conv3x3(weight)
    return packed


def conv3x3_relu(
    x: Tensor, packed: Tensor, bias: Tensor | None, out_channels: int, relu: bool = True
) -> Tensor:
    """Convolve with stride 1 and padding 1, add the bias and cut off below zero.

    Every output comes from a 6 x 6 patch around its tile of 4 x 4: a value that is not finite, or
    above 1e36, can make all outputs of the tiles that it touches NaN. Computed in float32 by any
    device. On the CPU products are fused with their sums where the processor can, the one operator
    whose last bits differ between processors with and without AVX2; they never depend on the
    number of threads, the batch or the size of the map. On CUDA it is `torch.conv2d`.

    Args:
        x: (B, C, H, W) float, H and W positive; channels_last is the fast layout.
        packed: the filters, from `pack_conv3x3`.
        bias: (O,) float, or None.
        out_channels: O.
        relu: whether values below zero become zero; NaN stays NaN.

    Returns:
        (B, O, H, W) in the type of x, channels_last. Largest error of an output about 1e-5 of the
        largest output, against float64 (direct float32 convolution: 1e-6).

    Raises:
        ValueError: shapes, types or devices are not as above, or a gradient is asked for.

    Source: Winograd F(4x4, 3x3): Lavin & Gray 2016 (arXiv:1509.09308), section 4.3.
    """
    _check(x, packed, bias, out_channels)
    dtype = x.dtype
    x, bias = x.float(), None if bias is None else bias.float()
    if not library.compiled_for("conv3x3_relu", x.device):
        return reference.conv3x3_relu(x, packed, bias, out_channels, relu).to(dtype)
    y: Tensor = torch.ops.ops_cuda.conv3x3_relu(x, packed, bias, out_channels, relu)
    return y.to(dtype)


def _check(x: Tensor, packed: Tensor, bias: Tensor | None, out_channels: int) -> None:
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be (B, C, H, W) with pixels and channels; got {tuple(x.shape)}")
    require_floating("x", x)
    require_positive("out_channels", out_channels)
    shape = (PATCH_PIXELS, -(-out_channels // PANEL), x.shape[1], PANEL)
    if tuple(packed.shape) != shape or packed.dtype != torch.float32:
        raise ValueError(
            f"packed must be {shape} float32 for {x.shape[1]} to {out_channels} channels; got "
            f"{tuple(packed.shape)} {packed.dtype}. Is it from pack_conv3x3?"
        )
    require_one_device(x=x, packed=packed)
    if bias is not None:
        if bias.shape != (out_channels,):
            raise ValueError(f"bias must be ({out_channels},); got {tuple(bias.shape)}")
        require_floating("bias", bias)
        require_one_device(x=x, bias=bias)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        raise ValueError(
            "conv3x3_relu has no gradient: call it under torch.no_grad(), or use torch.conv2d"
        )
