"""Sampling of a deformable convolution: the value that each tap of the kernel reads.

The compiled operators `deform_columns` and `deform_columns_backward` have no public wrapper; they
are called by `deform_conv2d`. Both take ``geometry``: kernel, stride, padding and dilation, each
rows before columns.

Shapes: B images, C channels, N deformable groups, T taps of the kernel, H W input, H' W' output.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ops_cuda.registration import register_fake


@register_fake("deform_columns")
def _deform_columns_fake(
    x: Tensor, offsets: Tensor, modulation: Tensor | None, geometry: Sequence[int]
) -> Tensor:
    size, taps = offsets.shape[2:], geometry[0] * geometry[1]
    return x.new_empty(len(x), *size, taps, x.shape[1])


@register_fake("deform_columns_backward")
def _deform_columns_backward_fake(
    gradient: Tensor,
    x: Tensor,
    offsets: Tensor,
    modulation: Tensor | None,
    geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        torch.empty_like(offsets, memory_format=torch.contiguous_format),
        offsets.new_empty(0)
        if modulation is None
        else torch.empty_like(modulation, memory_format=torch.contiguous_format),
    )


def deform_columns_reference(
    x: Tensor, offsets: Tensor, modulation: Tensor | None, geometry: Sequence[int]
) -> Tensor:
    """Sample every tap: (B, H', W', T, C) in the type of the offsets."""
    kernel, stride, padding, dilation = zip(geometry[::2], geometry[1::2], strict=True)
    taps = sample_taps(x, offsets, modulation, kernel, stride, padding, dilation)
    return taps.permute(0, 3, 4, 2, 1).contiguous()


def sample_taps(
    x: Tensor,
    offsets: Tensor,
    modulation: Tensor | None,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Sample every tap bilinearly and modulate it: (B, C, T, H', W') in the type of the offsets."""
    taps, (height, width) = kernel[0] * kernel[1], offsets.shape[2:]
    # (B * N, T, 2, H', W'), rows before columns
    shifts = offsets.reshape(-1, taps, 2, height, width)
    regular = _regular_positions((height, width), kernel, stride, padding, dilation, x.device)
    positions = regular + shifts
    # grid_sample takes columns before rows, and the map from edge to edge is -1 to 1.
    sides = torch.cat([positions.new_full((1,), side) for side in (x.shape[3], x.shape[2])])
    points = positions.permute(0, 1, 3, 4, 2).flip(-1)
    # NaN, or a pixel or more outside the map: moved to where grid_sample surely reads nothing.
    points = torch.where((points > -1) & (points < sides), points, -2.0)
    grid = (2 * points + 1) / sides - 1
    maps = x.reshape(len(shifts), -1, *x.shape[2:]).to(grid.dtype)
    columns = F.grid_sample(
        maps, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    ).view(len(shifts), -1, taps, height, width)
    if modulation is not None:
        columns = columns * modulation.reshape(-1, 1, taps, height, width)
    return columns.reshape(len(x), -1, taps, height, width)


def _regular_positions(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Return the rows and columns that an ordinary convolution reads, (T, 2, H', W') float32."""
    axes = [
        (
            torch.arange(size[axis], device=device)[None] * stride[axis]
            + torch.arange(kernel[axis], device=device)[:, None] * dilation[axis]
            - padding[axis]
        )
        for axis in (0, 1)
    ]
    rows = axes[0][:, None, :, None].expand(*kernel, *size)
    columns = axes[1][None, :, None, :].expand(*kernel, *size)
    return torch.stack((rows, columns), dim=2).flatten(0, 1).float()
