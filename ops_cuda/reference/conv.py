"""Twins of the 3x3 convolution with packed filters.

Shapes: B images, O output channels, C input channels, P = ceil(O / 32) panels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PANEL = 32
PATCH_PIXELS = 36

_HALF = ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1))
_SCALE = (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1)


def pack_conv3x3(weight: Tensor) -> Tensor:
    """Twin of `ops_cuda.pack_conv3x3`: G g G', laid out (36, P, C, 32)."""
    matrix = _filter_transform(weight.device)
    outputs, inputs = weight.shape[:2]
    lines = torch.einsum("ay,bx,ocyx->aboc", matrix, matrix, weight.double())
    filled = F.pad(lines.reshape(PATCH_PIXELS, outputs, inputs), (0, 0, 0, -outputs % PANEL))
    panels = filled.view(PATCH_PIXELS, -1, PANEL, inputs)
    return panels.transpose(2, 3).contiguous().float()


def unpack_conv3x3(packed: Tensor, out_channels: int) -> Tensor:
    """The filters (O, C, 3, 3) float32 of `pack_conv3x3`, but for its rounding."""
    back = torch.linalg.pinv(_filter_transform(packed.device))
    patches = packed.double().transpose(2, 3).flatten(1, 2)[:, :out_channels]
    return torch.einsum(
        "ya,xb,aboc->ocyx", back, back, patches.view(6, 6, *patches.shape[1:])
    ).float()


def conv3x3_relu(
    x: Tensor, packed: Tensor, bias: Tensor | None, out_channels: int, relu: bool = True
) -> Tensor:
    """Twin of `ops_cuda.conv3x3_relu`: torch's convolution with the filters that were packed."""
    y = F.conv2d(x, unpack_conv3x3(packed, out_channels), bias, padding=1)
    return (F.relu_(y) if relu else y).contiguous(memory_format=torch.channels_last)


def _filter_transform(device: torch.device) -> Tensor:
    """G, (6, 3) float64: the filter's polynomial at 0, 1, -1, 2, -2 and infinity, scaled."""
    points = torch.tensor(_HALF, dtype=torch.float64, device=device)
    return points * torch.tensor(_SCALE, dtype=torch.float64, device=device)[:, None]
