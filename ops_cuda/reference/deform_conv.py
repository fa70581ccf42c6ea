"""Twin of the deformable convolution: bilinear sampling, then one matrix product.

Shapes: B images, C O channels in and out, N deformable groups, T taps of the kernel, H W of the
input, H' W' of the output.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def deform_conv2d(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    modulation: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Twin of `ops_cuda.deform_conv2d`: (B, O, H', W')."""
    outputs, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
    groups = x.shape[1] // weight.shape[1]
    columns = read_taps(x, offsets, modulation, kernel, stride, padding, dilation)
    images, (height, width) = len(x), offsets.shape[2:]
    columns = columns.to(weight.dtype).reshape(images, groups, -1, height * width)
    filters = weight.reshape(groups, outputs // groups, -1)
    y = torch.matmul(filters, columns).view(images, outputs, height, width)
    return y if bias is None else y + bias.view(-1, 1, 1).to(y.dtype)


def read_taps(
    x: Tensor,
    offsets: Tensor,
    modulation: Tensor | None,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """What each tap of the kernel reads, weighed: (B, C, T, H', W') in the offsets' type."""
    taps, (height, width) = kernel[0] * kernel[1], offsets.shape[2:]
    # (B * N, T, 2, H', W'), rows before columns
    shifts = offsets.reshape(-1, taps, 2, height, width)
    places = _regular_places((height, width), kernel, stride, padding, dilation, x.device) + shifts
    # grid_sample wants columns before rows, the map from edge to edge being -1 to 1.
    sides = torch.cat([places.new_full((1,), side) for side in (x.shape[3], x.shape[2])])
    points = places.permute(0, 1, 3, 4, 2).flip(-1)
    # A pixel or more outside, or no number: nothing is read, wherever grid_sample would look.
    points = torch.where((points > -1) & (points < sides), points, -2.0)
    grid = (2 * points + 1) / sides - 1
    maps = x.reshape(len(shifts), -1, *x.shape[2:]).to(grid.dtype)
    columns = F.grid_sample(
        maps, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    ).view(len(shifts), -1, taps, height, width)
    if modulation is not None:
        columns = columns * modulation.reshape(-1, 1, taps, height, width)
    return columns.reshape(len(x), -1, taps, height, width)


def _regular_places(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Where an ordinary convolution reads, (T, 2, H', W') float32: row and column."""
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
