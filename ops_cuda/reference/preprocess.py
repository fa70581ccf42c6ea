"""Twin of the preparation of pictures. Shapes: B pictures, h w pixels of one, H W of the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_image(pixels: Tensor, height: int, width: int) -> Tensor:
    """Twin of `ops_cuda.resize_image`: torch's own antialiased filter, rounded once."""
    if tuple(pixels.shape[:2]) == (height, width):
        return pixels.clone()
    planes = pixels.permute(2, 0, 1)[None].double()
    resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return (resized[0] + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


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
) -> Tensor:
    """Twin of `ops_cuda.preprocess`: resize, reverse, normalise, pad."""
    device = images[0].device
    shape = (len(images), canvas_height, canvas_width, 3)
    batch = torch.zeros(shape, dtype=dtype, device=device)
    inverse_std = torch.tensor([1 / value for value in std], device=device)
    for row, image, height, width in zip(batch, images, heights, widths, strict=True):
        levels = resize_image(image, height, width).float()
        levels = levels.flip(2) if reverse_channels else levels
        normalised = (levels - torch.tensor(mean, device=device)) * inverse_std
        row[:height, :width] = normalised.to(dtype)
    return batch.permute(0, 3, 1, 2)
