"""Twin of what the taps of a deformable convolution read.

Shapes: B images, C channels, N deformable groups, T taps of the kernel, H W of the input, H' W' of
the output.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def deform_columns(
    x: Tensor, offsets: Tensor, modulation: Tensor | None, geometry: Sequence[int]
) -> Tensor:
    """Twin of the operator `deform_columns`: (B, H', W', T, C) in the type of x.

    Args:
        x: (B, C, H, W).
        offsets: (B, 2 * N * T, H', W').
        modulation: (B, N * T, H', W'), or None.
        geometry: kernel, stride, padding and dilation, rows before columns.
    """
    taps, (height, width) = geometry[0] * geometry[1], offsets.shape[2:]
    # (B * N, T, 2, H', W'), rows before columns
    shifts = offsets.reshape(-1, taps, 2, height, width)
    places = _regular_places((height, width), geometry, offsets.device) + shifts
    sides = torch.tensor([x.shape[2], x.shape[3]], device=x.device).view(2, 1, 1)
    # Far places and those that are no numbers read nothing, as does a place beside the map.
    near = ((places > -1) & (places < sides)).all(2, keepdim=True)
    places = torch.where(near, places, -2.0)
    # grid_sample wants columns before rows, the map from edge to edge being -1 to 1.
    grid = ((2 * places + 1) / sides - 1).permute(0, 1, 3, 4, 2).flip(-1)
    maps = x.reshape(len(shifts), -1, *x.shape[2:]).to(grid.dtype)
    read = F.grid_sample(
        maps, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    ).view(len(shifts), -1, taps, height, width)
    if modulation is not None:
        read = read * modulation.reshape(-1, 1, taps, height, width)
    read = read.reshape(len(x), -1, taps, height, width)
    return read.permute(0, 3, 4, 2, 1).to(x.dtype)


def _regular_places(size: tuple[int, int], geometry: Sequence[int], device: torch.device) -> Tensor:
    """Where an ordinary convolution reads, (T, 2, H', W') float32: row and column."""
    kernel, stride, padding, dilation = (geometry[start : start + 2] for start in (0, 2, 4, 6))
    axes = [
        torch.arange(size[axis], device=device)[None] * stride[axis]
        + torch.arange(kernel[axis], device=device)[:, None] * dilation[axis]
        - padding[axis]
        for axis in (0, 1)
    ]
    rows = axes[0][:, None, :, None].expand(*kernel, *size)
    columns = axes[1][None, :, None, :].expand(*kernel, *size)
    return torch.stack((rows, columns), dim=2).flatten(0, 1).float()
