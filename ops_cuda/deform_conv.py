"""Deformable convolution: each tap of the kernel reads where the input itself says."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ops_cuda import reference
from ops_cuda.checks import require_floating, require_one_device


def deform_conv2d(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    modulation: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Convolve with taps moved by offsets, and weighed by a modulation where there is one.

    Pure torch, for any device. What the taps read is as many times the input as there are taps: it
    is not kept for the gradient but sampled again.

    Args:
        x: (B, C, H, W) float.
        offsets: (B, 2 * N * T, H', W') float, map pixels; row and column of each of the T taps,
            for each of N groups of input channels.
        weight: (O, C / G, kh, kw), T = kh * kw taps; G groups, as in an ordinary convolution.
        bias: (O,), or None.
        modulation: (B, N * T, H', W'), or None.
        stride: rows and columns between outputs.
        padding: rows and columns of zeros around the map; beyond them taps read zeros too.
        dilation: rows and columns between taps.

    Returns:
        (B, O, H', W') in the weight's type, in the memory layout of x. Gradients flow to all
        tensors; at whole pixels, where bilinear sampling has a kink, those of the offsets are of
        one of its sides.

    Raises:
        ValueError: shapes or devices are not as above.

    Source: Dai et al. 2017, section 2.1; modulation: Zhu et al. 2019, section 3.2.
    """
    _check(x, offsets, weight, bias, modulation)
    _check_size(x, offsets, weight, stride, padding, dilation)
    # fp32: half precision would round the places of wide maps to whole pixels.
    offsets = offsets if offsets.dtype == torch.float64 else offsets.float()
    tensors = (x, offsets, weight, bias, modulation)
    geometry = (stride, padding, dilation)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if learns and not torch.compiler.is_compiling():
        y: Tensor = checkpoint(
            reference.deform_conv2d,
            *tensors,
            *geometry,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    else:
        y = reference.deform_conv2d(*tensors, *geometry)
    if x.is_contiguous(memory_format=torch.channels_last):
        y = y.contiguous(memory_format=torch.channels_last)
    return y


def _check(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, modulation: Tensor | None
) -> None:
    for name, tensor in (("x", x), ("offsets", offsets), ("weight", weight)):
        if tensor.ndim != 4:
            raise ValueError(f"{name} must have 4 dimensions; got {tuple(tensor.shape)}")
        require_floating(name, tensor)
    outputs, inputs, rows, columns = weight.shape
    groups, rest = divmod(x.shape[1], inputs)
    if rest or outputs % max(groups, 1):
        raise ValueError(
            f"weight {tuple(weight.shape)} does not fit the {x.shape[1]} channels of x: its "
            "second side must be theirs by the number of groups, which must divide its first"
        )
    deformable, rest = divmod(offsets.shape[1], 2 * rows * columns)
    if rest or not deformable or x.shape[1] % deformable or len(offsets) != len(x):
        raise ValueError(
            f"offsets must be ({len(x)}, 2 * N * {rows * columns}, H', W'), N groups of "
            f"{x.shape[1]} channels; got {tuple(offsets.shape)}"
        )
    require_one_device(x=x, offsets=offsets, weight=weight)
    wanted = (len(x), offsets.shape[1] // 2, *offsets.shape[2:])
    if modulation is not None and tuple(modulation.shape) != wanted:
        raise ValueError(f"modulation must be {wanted}; got {tuple(modulation.shape)}")
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"bias must be ({outputs},); got {tuple(bias.shape)}")


def _check_size(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    size = tuple(
        (x.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1)
        // stride[axis]
        + 1
        for axis in (0, 1)
    )
    if tuple(offsets.shape[2:]) != size:
        raise ValueError(
            f"offsets must be of the output's size {size}; got {tuple(offsets.shape[2:])}"
        )
