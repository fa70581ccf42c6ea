"""Inputs of the operators: the size of one image, 800 x 1088 pixels, and boxes on it."""

import torch
from torch import Tensor

HEIGHT, WIDTH = 800, 1088
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
LEVELS = ["p2", "p3", "p4", "p5"]


def random_boxes(count: int, largest: float, device: torch.device) -> Tensor:
    """Return (N, 4) random boxes on the image."""
    generator = torch.Generator().manual_seed(count)
    size = torch.tensor([WIDTH, HEIGHT])
    corners = torch.rand(count, 2, generator=generator) * (size - 20)
    sides = 4 + largest * torch.rand(count, 2, generator=generator) ** 2
    return torch.cat([corners, (corners + sides).minimum(size)], 1).to(device)
