"""3x3 convolution with bias and ReLU for inference; on the CPU, by Winograd's algorithm.

Shapes: B images, C input channels, O output channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops_cuda.checks import require_floating, require_one_device, require_positive
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake

PATCH_PIXELS = 36
# AVX-512; the kernel uses narrower registers where the machine has no wider ones.
WIDEST_VECTOR_BYTES = 64
PANEL = 32
"""Output channels that are adjacent in packed filters."""


def pack_conv3x3(weight: Tensor) -> Tensor:
    """Transform filters for `conv3x3_relu`, once per model; they become four times as large.

    Args:
        weight: (O, C, 3, 3) float, O and C positive.

    Returns:
        (36, ceil(O / 32), C, 32) float32, without gradient: Winograd's 6 x 6 form of every filter,
        output channels in panels of 32, the last one padded with zeros. Computed in float64, then
        rounded.

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
    if not compiled_for("pack_conv3x3", weight.device):
        return pack_conv3x3_reference(weight)
    packed: Tensor = torch.ops.ops_cuda.pack_conv3x3(weight)
    return packed


def conv3x3_relu(
    x: Tensor, packed: Tensor, bias: Tensor | None, out_channels: int, relu: bool = True
) -> Tensor:
    """Convolve with stride 1 and padding 1, add the bias and apply ReLU.

    Every output is computed from a 6 x 6 patch around its 4 x 4 tile: a value that is not finite,
    or above 1e36, can make all outputs of the tiles it touches NaN. Computed in float32 on every
    device. On the CPU products are fused with their sums where the processor supports it. This is
    the one operator whose last bits differ between processors with and without AVX2; they never
    depend on the number of threads, the batch or the size of the map. On CUDA it is `torch.conv2d`.

    Args:
        x: (B, C, H, W) float, H and W positive; channels_last is the fast layout.
        packed: the filters, from `pack_conv3x3`.
        bias: (O,) float, or None.
        out_channels: O.
        relu: whether to apply ReLU; NaN stays NaN.

    Returns:
        (B, O, H, W) in the type of x, channels_last. The largest error of an output is about 1e-5
        of the largest output, against float64 (direct float32 convolution: 1e-6).

    Raises:
        ValueError: shapes, types or devices are not as above, or a gradient is required.

    Source: Winograd F(4x4, 3x3): Lavin & Gray 2016 (arXiv:1509.09308), section 4.3.
    """
    _check(x, packed, bias, out_channels)
    dtype = x.dtype
    x, bias = x.float(), None if bias is None else bias.float()
    if not compiled_for("conv3x3_relu", x.device):
        return conv3x3_relu_reference(x, packed, bias, out_channels, relu).to(dtype)
    y: Tensor = torch.ops.ops_cuda.conv3x3_relu(
        x, packed, bias, out_channels, relu, WIDEST_VECTOR_BYTES
    )
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


@register_fake("pack_conv3x3")
def _pack_conv3x3_fake(weight: Tensor) -> Tensor:
    outputs, inputs = weight.shape[:2]
    return weight.new_empty(PATCH_PIXELS, (outputs + PANEL - 1) // PANEL, inputs, PANEL)


@register_fake("conv3x3_relu")
def _conv3x3_relu_fake(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    out_channels: int,
    relu: bool,
    vector_bytes: int,
) -> Tensor:
    shape = (x.shape[0], out_channels, *x.shape[2:])
    return torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=torch.channels_last)


# Winograd's convolution has no half-precision form.
register_autocast_to_float32("pack_conv3x3", "conv3x3_relu")

_POWERS_OF_POINTS = ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1))
_SCALE = (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1)


def pack_conv3x3_reference(weight: Tensor) -> Tensor:
    """Compute G g G' of every filter g, laid out (36, panels, C, 32)."""
    matrix = _filter_transform(weight.device)
    outputs, inputs = weight.shape[:2]
    patches = torch.einsum("ay,bx,ocyx->aboc", matrix, matrix, weight.double())
    padded = F.pad(patches.reshape(PATCH_PIXELS, outputs, inputs), (0, 0, 0, -outputs % PANEL))
    panels = padded.view(PATCH_PIXELS, -1, PANEL, inputs)
    return panels.transpose(2, 3).contiguous().float()


def unpack_conv3x3(packed: Tensor, out_channels: int) -> Tensor:
    """Return the filters (O, C, 3, 3) float32 of `pack_conv3x3`, up to its rounding."""
    inverse = torch.linalg.pinv(_filter_transform(packed.device))
    patches = packed.double().transpose(2, 3).flatten(1, 2)[:, :out_channels]
    return torch.einsum(
        "ya,xb,aboc->ocyx", inverse, inverse, patches.view(6, 6, *patches.shape[1:])
    ).float()


def conv3x3_relu_reference(
    x: Tensor, packed: Tensor, bias: Tensor | None, out_channels: int, relu: bool = True
) -> Tensor:
    """Call torch's convolution with the unpacked filters."""
    y = F.conv2d(x, unpack_conv3x3(packed, out_channels), bias, padding=1)
    return (F.relu_(y) if relu else y).contiguous(memory_format=torch.channels_last)


def _filter_transform(device: torch.device) -> Tensor:
    """Return G, (6, 3) float64: the filter's polynomial at 0, 1, -1, 2, -2 and infinity, scaled."""
    powers = torch.tensor(_POWERS_OF_POINTS, dtype=torch.float64, device=device)
    return powers * torch.tensor(_SCALE, dtype=torch.float64, device=device)[:, None]
