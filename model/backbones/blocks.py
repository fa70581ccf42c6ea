"""Residual blocks. Layers have torchvision's names, so its weights fit.

Source: He et al. 2016, figure 5; with groups, Xie et al. 2017, figure 3 c.
"""

from torch import Tensor, nn

from model.layers.convolution import convolve
from model.layers.deformable import convolve_deformed, make_offset_conv
from model.layers.norm import make_norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, H, W) to (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: str, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, width, eps)
        self.downsample = _make_projection(channels, width, stride, norm, eps)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = convolve(x, self.conv1, self.bn1, relu=True)
        return convolve(y, self.conv2, self.bn2, _shortcut(x, self.downsample), relu=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (B, C, H, W) to (B, out, H/stride, W/stride).

    Args:
        channels: input channels.
        width: channels of the 3x3 convolution.
        out: output channels.
        stride: stride of the first 1x1 or of the 3x3 convolution.
        norm: kind of the norms, as for ``make_norm``.
        eps: epsilon of the norms.
        stride_in_1x1: whether the first 1x1 convolution has the stride.
        groups: groups of the 3x3 convolution.
        dilation: dilation of the 3x3 convolution.
        deformable: none, v1 or v2: whether and how the 3x3 convolution is deformable.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        width: int,
        out: int,
        stride: int,
        norm: str,
        eps: float,
        stride_in_1x1: bool = False,
        groups: int = 1,
        dilation: int = 1,
        deformable: str = "none",
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = make_norm(norm, width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, groups, bias=False)
        self.bn2 = make_norm(norm, width, eps)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = make_norm(norm, out, eps)
        self.downsample = _make_projection(channels, out, stride, norm, eps)
        self.conv2_offset: nn.Conv2d | None = None
        if deformable != "none":
            self.conv2_offset = make_offset_conv(self.conv2, deformable)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = convolve(x, self.conv1, self.bn1, relu=True)
        if self.conv2_offset is None:
            y = convolve(y, self.conv2, self.bn2, relu=True)
        else:
            y = convolve_deformed(y, self.conv2, self.conv2_offset, self.bn2)
        return convolve(y, self.conv3, self.bn3, _shortcut(x, self.downsample), relu=True)


def _make_projection(
    channels: int, out: int, stride: int, norm: str, eps: float
) -> nn.Module | None:
    """Return the 1x1 convolution of a shortcut whose shape changes; None if it does not."""
    if stride == 1 and channels == out:
        return None
    conv = nn.Conv2d(channels, out, 1, stride, bias=False)
    return nn.Sequential(conv, make_norm(norm, out, eps))


def _shortcut(x: Tensor, projection: nn.Module | None) -> Tensor:
    if projection is None:
        return x
    conv, norm = projection.children()
    return convolve(x, conv, norm)  # type: ignore[arg-type]
