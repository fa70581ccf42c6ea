"""The feature pyramid: coarse, meaningful maps flow down into fine ones.

Source: Lin et al. 2017, section 3; P6 by subsampling P5, section 4.1 footnote.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from model.convolution import convolve, infers_on_cpu


class FeaturePyramid(nn.Module):
    """C2..C5 to P2..P6, all of ``channels``."""

    strides = (4, 8, 16, 32, 64)

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Merge from the top.

        Args:
            features: C2..C5, (B, C_i, H_i, W_i), finest first.

        Returns:
            P2..P6, (B, channels, H_i, W_i); P6 has every second cell of P5.
        """
        merged: list[Tensor] = []
        for feature, lateral in zip(reversed(features), reversed(self.lateral), strict=True):
            level = convolve(feature, lateral)  # type: ignore[arg-type]
            if merged:
                level = _add_upsampled(level, merged[-1])
            merged.append(level)
        pyramid = [
            convolve(level, output)  # type: ignore[arg-type]
            for level, output in zip(reversed(merged), self.output, strict=True)
        ]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]


def _add_upsampled(level: Tensor, coarse: Tensor) -> Tensor:
    """Add the coarser map, each cell to those of ``level`` that it covers, in place."""
    size, (height, width) = level.shape[-2:], coarse.shape[-2:]
    if infers_on_cpu(level) and tuple(size) == (2 * height, 2 * width):
        # the same sums without writing the large map first: a third of the time
        quads = level.view(*level.shape[:2], height, 2, width, 2)
        quads += coarse[:, :, :, None, :, None]
        return level
    level += F.interpolate(coarse, size=size, mode="nearest")
    return level
