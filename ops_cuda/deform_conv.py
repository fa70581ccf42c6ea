"""Deformable convolution: each tap of the kernel reads where the input itself says."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ops_cuda import library, reference
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

    What the taps read is as many times the input as there are taps: it is not kept for the gradient
    but sampled again. Under autocast its type is that of the products.

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
    geometry = (stride, padding, dilation)
    if library.compiled_for("deform_columns", x.device):
        y = _convolve_compiled(x, offsets, weight, modulation, *geometry)
        if bias is not None:
            # Added as y lies in memory: of other strides a tracer would ask for sizes.
            y = (y.permute(0, 2, 3, 1) + bias.to(y.dtype)).permute(0, 3, 1, 2)
    else:
        y = _convolve_plainly(x, offsets, weight, bias, modulation, geometry)
    layout = (
        torch.channels_last
        if x.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    return y.contiguous(memory_format=layout)


def _convolve_plainly(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    modulation: Tensor | None,
    geometry: tuple[tuple[int, int], ...],
) -> Tensor:
    tensors = (x, offsets, weight, bias, modulation)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if not learns or torch.compiler.is_compiling():
        return reference.deform_conv2d(*tensors, *geometry)
    y: Tensor = checkpoint(
        reference.deform_conv2d,
        *tensors,
        *geometry,
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return y


def _convolve_compiled(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    modulation: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    kind = x.device.type
    wanted = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    # Half types have kernels on CUDA alone; offsets stay exact there, elsewhere all types agree.
    is_half = wanted in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if is_half and kind == "cpu" else wanted
    exact = torch.float32 if is_half else dtype
    outputs, per_group = weight.shape[:2]
    groups = x.shape[1] // per_group
    # (G, T * C / G, O / G): a tap's channels together, as in the columns.
    filters = weight.to(dtype).view(groups, outputs // groups, per_group, -1)
    y: Tensor = _SampledProduct.apply(
        x.to(dtype),
        offsets.to(exact),
        None if modulation is None else modulation.to(exact),
        filters.permute(0, 3, 2, 1).flatten(1, 2),
        [*weight.shape[2:], *stride, *padding, *dilation],
    )
    return y.to(wanted)


class _SampledProduct(torch.autograd.Function):
    """What the taps read times filters (G, T * C / G, O / G): (B, O, H', W')."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offsets: Tensor,
        modulation: Tensor | None,
        filters: Tensor,
        geometry: list[int],
    ) -> Tensor:
        ctx.save_for_backward(x, offsets, modulation, filters)
        ctx.geometry = geometry
        rows = _rows(torch.ops.ops_cuda.deform_columns(x, offsets, modulation, geometry), filters)
        with torch.autocast(x.device.type, enabled=False):  # the types are chosen already
            y = torch.bmm(rows, filters).transpose(0, 1).flatten(1)
        return y.view(len(x), *offsets.shape[2:], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, offsets, modulation, filters = ctx.saved_tensors
        images, taps = len(x), ctx.geometry[0] * ctx.geometry[1]
        # (G, P, O / G)
        incoming = gradient.permute(0, 2, 3, 1).reshape(-1, len(filters), filters.shape[2])
        incoming = incoming.transpose(0, 1)
        of_filters = None
        if ctx.needs_input_grad[3]:
            columns = torch.ops.ops_cuda.deform_columns(x, offsets, modulation, ctx.geometry)
            of_filters = torch.bmm(_rows(columns, filters).transpose(1, 2), incoming)
            del columns
        of_rows = torch.bmm(incoming, filters.transpose(1, 2))
        size = (images, *offsets.shape[2:], taps, x.shape[1])
        by_group = of_rows.view(*of_rows.shape[:2], taps, -1)
        of_columns = by_group.permute(1, 2, 0, 3).reshape(size)
        of_x, of_offsets, of_modulation = torch.ops.ops_cuda.deform_columns_backward(
            of_columns, x, offsets, modulation, ctx.geometry
        )
        return of_x, of_offsets, None if modulation is None else of_modulation, of_filters, None


def _rows(columns: Tensor, filters: Tensor) -> Tensor:
    """Columns (B, H', W', T, C) as a matrix per group of channels: (G, B * H' * W', T * C / G)."""
    groups, (taps, channels) = len(filters), columns.shape[3:]
    grouped = columns.view(-1, taps, groups, channels // groups)
    return grouped.permute(2, 0, 1, 3).reshape(groups, -1, filters.shape[1])


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
