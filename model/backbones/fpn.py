"""The feature pyramid: coarse, meaningful maps flow down into fine ones.

Source: Lin et al. 2017, section 3; P6 by subsampling P5, section 4.1 footnote.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.norm import make_norms
from model.convolution import convolve, infers_on_cpu


class FeaturePyramid(nn.Module):
    """C2..C5 to P2..P6, all of ``channels``.

    Args:
        in_channels: of C2..C5.
        channels: of every level.
        norm: after each convolution: none, frozen_bn, batch_norm or group_norm.
    """

    strides = (4, 8, 16, 32, 64)

    def __init__(self, in_channels: Sequence[int], channels: int = 256, norm: str = "none") -> None:
        super().__init__()
        bias = norm == "none"
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=bias) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias) for _ in in_channels
        )
        self.lateral_norms = make_norms(norm, channels, len(in_channels))
        self.output_norms = make_norms(norm, channels, len(in_channels))
        for layer in (*self.lateral, *self.output):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Merge from the top.

        Args:
            features: C2..C5, (B, C_i, H_i, W_i), finest first.

        Returns:
            P2..P6, (B, channels, H_i, W_i); P6 has every second cell of P5.
        """
        merged: list[Tensor] = []
        for index in reversed(range(len(self.lateral))):
            level = _normalised(features[index], self.lateral, self.lateral_norms, index)
            if merged:
                level = _add_upsampled(level, merged[-1])
            merged.append(level)
        pyramid = [
            _normalised(level, self.output, self.output_norms, index)
            for index, level in enumerate(reversed(merged))
        ]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]


def _normalised(x: Tensor, layers: nn.ModuleList, norms: nn.ModuleList, index: int) -> Tensor:
    return convolve(x, layers[index], norms[index] if norms else None)  # type: ignore[arg-type]


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
