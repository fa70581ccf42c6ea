"""Deformable convolution: the input itself determines where each tap of the kernel reads.

Shapes: B images, C O channels in and out, G groups of an ordinary convolution, N deformable groups,
T taps of the kernel, H W input, H' W' output.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ops_cuda.checks import require_floating, require_one_device
from ops_cuda.deform_columns import sample_taps
from ops_cuda.library import compiled_for


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
    """Convolve with taps shifted by offsets and, if given, scaled by a modulation.

    The sampled values are T times as large as the input: they are not kept for the gradient but
    sampled again. Under autocast they have the type of the products.

    Args:
        x: (B, C, H, W) float.
        offsets: (B, 2 * N * T, H', W') float, map pixels; row and column of each tap, for each
            deformable group of input channels.
        weight: (O, C / G, kh, kw), T = kh * kw taps.
        bias: (O,), or None.
        modulation: (B, N * T, H', W'), or None.
        stride: rows and columns between outputs.
        padding: rows and columns of zeros around the map; beyond them taps read zeros too.
        dilation: rows and columns between taps.

    Returns:
        (B, O, H', W') in the weight's type, in the memory layout of x. Gradients flow to all
        tensors; at whole pixels, where bilinear sampling has a kink, those of the offsets are
        one-sided.

    Raises:
        ValueError: shapes or devices are not as above.

    Source: Dai et al. 2017, section 2.1; modulation: Zhu et al. 2019, section 3.2.
    """
    _check(x, offsets, weight, bias, modulation)
    _check_size(x, offsets, weight, stride, padding, dilation)
    # float32: half precision would round positions on wide maps to whole pixels.
    offsets = offsets if offsets.dtype == torch.float64 else offsets.float()
    geometry = (stride, padding, dilation)
    if compiled_for("deform_columns", x.device):
        y = _convolve_compiled(x, offsets, weight, modulation, *geometry)
        if bias is not None:
            # Added in the memory order of y: other strides would make a tracer guard on sizes.
            y = (y.permute(0, 2, 3, 1) + bias.to(y.dtype)).permute(0, 3, 1, 2)
    else:
        y = _convolve_reference(x, offsets, weight, bias, modulation, geometry)
    layout = (
        torch.channels_last
        if x.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    return y.contiguous(memory_format=layout)


def _convolve_compiled(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    modulation: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    device = x.device.type
    output_dtype = (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    )
    # Only CUDA has kernels for half types; there the offsets stay float32. Otherwise types agree.
    is_half = output_dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if is_half and device == "cpu" else output_dtype
    offset_dtype = torch.float32 if is_half else dtype
    outputs, inputs_per_group = weight.shape[:2]
    groups = x.shape[1] // inputs_per_group
    # (G, T * C / G, O / G): the channels of a tap are adjacent, as in the columns.
    filters = weight.to(dtype).view(groups, outputs // groups, inputs_per_group, -1)
    y: Tensor = _SampledProduct.apply(
        x.to(dtype),
        offsets.to(offset_dtype),
        None if modulation is None else modulation.to(offset_dtype),
        filters.permute(0, 3, 2, 1).flatten(1, 2),
        [*weight.shape[2:], *stride, *padding, *dilation],
    )
    return y.to(output_dtype)


class _SampledProduct(torch.autograd.Function):
    """Product of the sampled taps with filters (G, T * C / G, O / G): (B, O, H', W')."""

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
        columns = torch.ops.ops_cuda.deform_columns(x, offsets, modulation, geometry)
        rows = _rows(columns, filters)
        with torch.autocast(x.device.type, enabled=False):  # the caller has set the types
            y = torch.bmm(rows, filters).transpose(0, 1).flatten(1)
        return y.view(len(x), *offsets.shape[2:], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, offsets, modulation, filters = ctx.saved_tensors
        images, taps = len(x), ctx.geometry[0] * ctx.geometry[1]
        # (G, B * H' * W', O / G)
        grad_rows_out = grad_y.permute(0, 2, 3, 1).reshape(-1, len(filters), filters.shape[2])
        grad_rows_out = grad_rows_out.transpose(0, 1)
        grad_filters = None
        if ctx.needs_input_grad[3]:
            columns = torch.ops.ops_cuda.deform_columns(x, offsets, modulation, ctx.geometry)
            grad_filters = torch.bmm(_rows(columns, filters).transpose(1, 2), grad_rows_out)
            del columns
        grad_rows = torch.bmm(grad_rows_out, filters.transpose(1, 2))
        size = (images, *offsets.shape[2:], taps, x.shape[1])
        by_tap = grad_rows.view(*grad_rows.shape[:2], taps, -1)
        grad_columns = by_tap.permute(1, 2, 0, 3).reshape(size)
        grad_x, grad_offsets, grad_modulation = torch.ops.ops_cuda.deform_columns_backward(
            grad_columns, x, offsets, modulation, ctx.geometry
        )
        if modulation is None:
            grad_modulation = None
        return grad_x, grad_offsets, grad_modulation, grad_filters, None


def _rows(columns: Tensor, filters: Tensor) -> Tensor:
    """Reshape columns (B, H', W', T, C) to a matrix per group: (G, B * H' * W', T * C / G)."""
    groups, (taps, channels) = len(filters), columns.shape[3:]
    grouped = columns.view(-1, taps, groups, channels // groups)
    return grouped.permute(2, 0, 1, 3).reshape(groups, -1, filters.shape[1])


def _convolve_reference(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    modulation: Tensor | None,
    geometry: tuple[tuple[int, int], ...],
) -> Tensor:
    """Run the reference; with gradients, under activation checkpointing."""
    tensors = (x, offsets, weight, bias, modulation)
    with_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if not with_grad or torch.compiler.is_compiling():
        return deform_conv2d_reference(*tensors, *geometry)
    y: Tensor = checkpoint(
        deform_conv2d_reference,
        *tensors,
        *geometry,
        use_reentrant=False,
        preserve_rng_state=False,
    )
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
            f"second dimension must be {x.shape[1]} / G, and G must divide its first dimension"
        )
    deformable_groups, rest = divmod(offsets.shape[1], 2 * rows * columns)
    fits = deformable_groups and x.shape[1] % deformable_groups == 0
    if rest or not fits or len(offsets) != len(x):
        raise ValueError(
            f"offsets must be ({len(x)}, 2 * N * {rows * columns}, H', W'), N groups of "
            f"{x.shape[1]} channels; got {tuple(offsets.shape)}"
        )
    require_one_device(x=x, offsets=offsets, weight=weight)
    shape = (len(x), offsets.shape[1] // 2, *offsets.shape[2:])
    if modulation is not None and tuple(modulation.shape) != shape:
        raise ValueError(f"modulation must be {shape}; got {tuple(modulation.shape)}")
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
            f"offsets must have the output's size {size}; got {tuple(offsets.shape[2:])}"
        )


def deform_conv2d_reference(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    modulation: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Sample bilinearly, then multiply by one matrix: (B, O, H', W')."""
    outputs, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
    groups = x.shape[1] // weight.shape[1]
    columns = sample_taps(x, offsets, modulation, kernel, stride, padding, dilation)
    images, (height, width) = len(x), offsets.shape[2:]
    columns = columns.to(weight.dtype).reshape(images, groups, -1, height * width)
    filters = weight.reshape(groups, outputs // groups, -1)
    y = torch.matmul(filters, columns).view(images, outputs, height, width)
    return y if bias is None else y + bias.view(-1, 1, 1).to(y.dtype)
