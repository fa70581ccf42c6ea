"""The feature pyramid network.

Source: Lin et al. 2017, section 3; P6 by subsampling P5, section 4.1 footnote. P3..P7: Lin et al.
2017, "Focal loss for dense object detection", section 4.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.convolution import convolve, infers_on_cpu
from model.layers.norm import make_norms

PyramidTop = Literal["subsampled", "c5", "p5"]
"""How the levels above P5 are made; see ``FeaturePyramid``."""


class FeaturePyramid(nn.Module):
    """C2..C5 to P2..P6, or C3..C5 to P3..P7, all with the same number of channels.

    Args:
        in_channels: channels of C2..C5.
        channels: channels of every pyramid level.
        top: how the levels above P5 are made. "subsampled": P6 is every second cell of P5. "c5" or
            "p5": a convolution computes P6 from that map, another computes P7 from P6, and there is
            no P2.
        norm: norm after each convolution except those of P6 and P7: none, or a kind of
            ``make_norm``.
        relu_before_p7: apply a ReLU to P6 before P7 is computed from it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        top: PyramidTop = "subsampled",
        norm: str = "none",
        relu_before_p7: bool = True,
    ) -> None:
        super().__init__()
        self.top = top
        self.relu_before_p7 = relu_before_p7
        self.strides = (4, 8, 16, 32, 64) if top == "subsampled" else (8, 16, 32, 64, 128)
        above: list[nn.Conv2d] = []
        if top != "subsampled":
            below = in_channels[-1] if top == "c5" else channels
            self.p6 = nn.Conv2d(below, channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            above = [self.p6, self.p7]
            in_channels = in_channels[1:]
        bias = norm == "none"
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=bias) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias) for _ in in_channels
        )
        self.lateral_norms = make_norms(norm, channels, len(in_channels))
        self.output_norms = make_norms(norm, channels, len(in_channels))
        for layer in (*self.lateral, *self.output, *above):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Merge the feature maps from coarse to fine.

        Args:
            features: C2..C5, (B, C_i, H_i, W_i), finest first.

        Returns:
            P2..P6 or P3..P7, (B, channels, H_i, W_i).
        """
        merged: list[Tensor] = []
        inputs = features[-len(self.lateral) :]
        for index in reversed(range(len(self.lateral))):
            level = _convolve_nth(inputs[index], self.lateral, self.lateral_norms, index)
            if merged:
                level = _add_upsampled(level, merged[-1])
            merged.append(level)
        pyramid = [
            _convolve_nth(level, self.output, self.output_norms, index)
            for index, level in enumerate(reversed(merged))
        ]
        if self.top == "subsampled":
            return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]
        p6 = convolve(features[-1] if self.top == "c5" else pyramid[-1], self.p6)
        return [*pyramid, p6, convolve(F.relu(p6) if self.relu_before_p7 else p6, self.p7)]


def _convolve_nth(x: Tensor, convs: nn.ModuleList, norms: nn.ModuleList, index: int) -> Tensor:
    return convolve(x, convs[index], norms[index] if norms else None)  # type: ignore[arg-type]


def _add_upsampled(level: Tensor, coarse: Tensor) -> Tensor:
    """Add the coarser map, upsampled by nearest neighbor, to ``level`` in place."""
    size, (height, width) = level.shape[-2:], coarse.shape[-2:]
    if infers_on_cpu(level) and tuple(size) == (2 * height, 2 * width):
        # The same sums without materializing the upsampled map, in a third of the time.
        quads = level.view(*level.shape[:2], height, 2, width, 2)
        quads += coarse[:, :, :, None, :, None]
        return level
    level += F.interpolate(coarse, size=size, mode="nearest")
    return level
