"""The feature pyramid: coarse, meaningful maps flow down into fine ones.

Source: Lin et al. 2017, section 3; P6 by subsampling P5, section 4.1 footnote. P3..P7: Lin et al.
2017, "Focal loss for dense object detection", section 4.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from model.convolution import convolve, infers_on_cpu


class FeaturePyramid(nn.Module):
    """C2..C5 to P2..P6, or C3..C5 to P3..P7, all of ``channels``.

    Args:
        in_channels: of C2..C5.
        channels: of every level.
        top: what stands above P5: "subsampled" P5 as P6; or P6 convolved from "c5" or "p5" and P7
            from P6, and then there is no P2.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        top: Literal["subsampled", "c5", "p5"] = "subsampled",
    ) -> None:
        super().__init__()
        self.top = top
        self.strides = (4, 8, 16, 32, 64) if top == "subsampled" else (8, 16, 32, 64, 128)
        if top != "subsampled":
            below = in_channels[-1] if top == "c5" else channels
            self.p6 = nn.Conv2d(below, channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            in_channels = in_channels[1:]
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
            P2..P6 or P3..P7, (B, channels, H_i, W_i).
        """
        merged: list[Tensor] = []
        read = features[-len(self.lateral) :]
        for feature, lateral in zip(reversed(read), reversed(self.lateral), strict=True):
            level = convolve(feature, lateral)  # type: ignore[arg-type]
            if merged:
                level = _add_upsampled(level, merged[-1])
            merged.append(level)
        pyramid = [
            convolve(level, output)  # type: ignore[arg-type]
            for level, output in zip(reversed(merged), self.output, strict=True)
        ]
        if self.top == "subsampled":
            return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]
        p6 = convolve(features[-1] if self.top == "c5" else pyramid[-1], self.p6)
        return [*pyramid, p6, convolve(F.relu(p6), self.p7)]


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
