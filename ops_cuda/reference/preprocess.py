"""Twin of the preparation of pictures. Shapes: B pictures, h w pixels of one, H W of the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_image(pixels: Tensor, height: int, width: int) -> Tensor:
    """Twin of `ops_cuda.resize_image`: a weighted sum along either axis, rounded once.

    Not torch's own filter: on the CPU, torch 2.15 repeats the first row where the width is 1.
    """
    return (resized_levels(pixels, height, width) + 0.5).floor().to(torch.uint8)


def resized_levels(pixels: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    """The (height, width, 3) float64 levels before they are rounded."""
    rows = axis_weights(height, pixels.shape[0], antialias).to(pixels.device)
    columns = axis_weights(width, pixels.shape[1], antialias).to(pixels.device)
    blended = torch.einsum("ys,swc->ywc", rows, pixels.double())
    return torch.einsum("xs,ysc->yxc", columns, blended).contiguous()


def axis_weights(length: int, source: int, antialias: bool = True) -> Tensor:
    """(length, source) float64: how much of each source pixel is in each of the result."""
    scale = source / length
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) * scale
    distances = torch.arange(source) + 0.5 - centres[:, None]
    support = max(scale, 1.0) if antialias else 1.0
    triangles = (1 - distances.abs() / support).clamp(min=0)
    return triangles / triangles.sum(1, keepdim=True)


def preprocess(
    images: Sequence[Tensor],
    heights: Sequence[int],
    widths: Sequence[int],
    canvas_height: int,
    canvas_width: int,
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool,
    dtype: torch.dtype,
    antialias: bool = True,
) -> Tensor:
    """Twin of `ops_cuda.preprocess`: resize, reverse, normalise, pad."""
    device = images[0].device
    shape = (len(images), canvas_height, canvas_width, 3)
    batch = torch.zeros(shape, dtype=dtype, device=device)
    inverse_std = torch.tensor([1 / value for value in std], device=device)
    for row, image, height, width in zip(batch, images, heights, widths, strict=True):
        if antialias:
            levels = resize_image(image, height, width).float()
        else:
            levels = resized_levels(image, height, width, antialias=False).float()
        levels = levels.flip(2) if reverse_channels else levels
        normalised = (levels - torch.tensor(mean, device=device)) * inverse_std
        row[:height, :width] = normalised.to(dtype)
    return batch.permute(0, 3, 1, 2)
