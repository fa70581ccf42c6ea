"""ResNet: the bottom-up pathway. Layers bear torchvision's names, so its weights fit.

Source: He et al. 2016, table 1.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.norm import make_norm
from model.convolution import convolve

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, (B, C, H, W) to (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: str, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, width, eps)
        self.downsample = _projection(channels, width, stride, norm, eps)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = convolve(x, self.conv1, self.bn1, relu=True)
        return convolve(y, self.conv2, self.bn2, _shortcut(x, self.downsample), relu=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, (B, C, H, W) to (B, 4 * width, H/stride, W/stride)."""

    expansion = 4

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        norm: str,
        eps: float,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = make_norm(norm, width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, bias=False)
        self.bn2 = make_norm(norm, width, eps)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = make_norm(norm, out, eps)
        self.downsample = _projection(channels, out, stride, norm, eps)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = convolve(x, self.conv1, self.bn1, relu=True)
        y = convolve(y, self.conv2, self.bn2, relu=True)
        return convolve(y, self.conv3, self.bn3, _shortcut(x, self.downsample), relu=True)


class ResNet(nn.Module):
    """ResNet without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        norm: frozen_bn, batch_norm or group_norm.
        eps: epsilon of the norm layers.
        width: channels of the stem; 64 in the paper.
        frozen_stages: stages that do not train, from the stem: 2 is the stem and layer1.
        stride_in_1x1: bottlenecks stride in their first 1x1 convolution, as in the paper and
            Detectron; else in the 3x3, as in torchvision.
    """

    def __init__(
        self,
        depth: int = 50,
        norm: str = "frozen_bn",
        eps: float = 1e-5,
        width: int = 64,
        frozen_stages: int = 2,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        bottleneck = depth >= 50
        expansion = Bottleneck.expansion if bottleneck else BasicBlock.expansion
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width, eps)
        self.channels = tuple(width * expansion * 2**stage for stage in range(4))
        inputs = (width, *self.channels)
        layers = []
        for stage, blocks in enumerate(BLOCKS[depth]):
            layer = nn.Sequential()
            for block in range(blocks):
                channels = inputs[stage] if block == 0 else self.channels[stage]
                stride = 2 if block == 0 and stage > 0 else 1
                stage_width = width * 2**stage
                layer.append(
                    Bottleneck(channels, stage_width, stride, norm, eps, stride_in_1x1)
                    if bottleneck
                    else BasicBlock(channels, stage_width, stride, norm, eps)
                )
            layers.append(layer)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self._initialise()
        stages = ((self.conv1, self.bn1), *((layer,) for layer in layers))
        self._frozen = tuple(part for stage in stages[:frozen_stages] for part in stage)
        for part in self._frozen:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of four scales.

        Args:
            x: (B, 3, H, W) normalised pixels.

        Returns:
            C2, C3, C4, C5: (B, channels[i], H / 2**(i + 2), W / 2**(i + 2)).
        """
        x = convolve(x, self.conv1, self.bn1, relu=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    def train(self, mode: bool = True) -> "ResNet":
        """Set training mode; the statistics of frozen stages stay as they are."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _projection(channels: int, out: int, stride: int, norm: str, eps: float) -> nn.Module | None:
    """The shortcut's 1x1 convolution, where the block changes the shape."""
    if stride == 1 and channels == out:
        return None
    convolution = nn.Conv2d(channels, out, 1, stride, bias=False)
    return nn.Sequential(convolution, make_norm(norm, out, eps))


def _shortcut(x: Tensor, projection: nn.Module | None) -> Tensor:
    if projection is None:
        return x
    convolution, norm = projection.children()
    return convolve(x, convolution, norm)  # type: ignore[arg-type]
