"""ResNet and ResNeXt: the bottom-up pathway. Layers bear torchvision's names, so its weights fit.

Source: He et al. 2016, table 1; Xie et al. 2017, table 1.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.blocks import BasicBlock, Bottleneck
from model.config import BackboneConfig, Conventions
from model.layers.convolution import convolve
from model.layers.deformable import reset_offsets
from model.layers.norm import make_norm

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclass(frozen=True)
class ResNetStages:
    """What the stages res2 to res5 are made of.

    Args:
        depth: 18, 34, 50, 101 or 152; all but width and norm needs the bottlenecks of 50 and more.
        norm: frozen_bn, batch_norm or group_norm.
        eps: epsilon of the norm layers.
        width: channels of the stem; 64 in the paper.
        stride_in_1x1: bottlenecks stride in their first 1x1 convolution, as in the paper and
            Detectron; else in the 3x3, as in torchvision.
        groups: of the 3x3 convolutions; more than one make it a ResNeXt.
        group_width: channels of a group in res2, which double with every stage.
        deformable: none, v1 or v2: the 3x3 convolutions of ``deformable_stages``.
        deformable_stages: 2 to 5.
        dilated: res5 dilates its 3x3 convolutions instead of its stride.
        dilate_first_block: all of them (detectron2); else all but the first, which then reads what
            it would with a stride (torchvision).
    """

    depth: int = 50
    norm: str = "frozen_bn"
    eps: float = 1e-5
    width: int = 64
    stride_in_1x1: bool = False
    groups: int = 1
    group_width: int = 64
    deformable: str = "none"
    deformable_stages: tuple[int, ...] = (3, 4, 5)
    dilated: bool = False
    dilate_first_block: bool = False

    @classmethod
    def of(cls, backbone: BackboneConfig, rules: Conventions) -> "ResNetStages":
        """The stages that settings describe."""
        return cls(
            depth=backbone.depth,
            norm=backbone.norm,
            eps=rules.norm_epsilon,
            width=backbone.width,
            stride_in_1x1=rules.stride_in_1x1,
            groups=backbone.groups,
            group_width=backbone.group_width,
            deformable=backbone.deformable,
            deformable_stages=backbone.deformable_stages,
            dilated=backbone.features == "dc5",
            dilate_first_block=rules.dilate_first_block,
        )

    def channels(self, stage: int) -> int:
        """Channels that a stage gives; the stem is stage 1."""
        if stage == 1:
            return self.width
        kind = Bottleneck if self.depth >= 50 else BasicBlock
        return self.width * kind.expansion << (stage - 2)

    def build(self, stage: int) -> nn.Sequential:
        """The blocks of stage 2 to 5, at torch's initialisation."""
        blocks = range(BLOCKS[self.depth][stage - 2])
        return nn.Sequential(*(self._block(stage, block) for block in blocks))

    def _block(self, stage: int, block: int) -> nn.Module:
        channels = self.channels(stage - 1 if block == 0 else stage)
        dilated = self.dilated and stage == 5
        stride = 2 if block == 0 and stage > 2 and not dilated else 1
        if self.depth < 50:
            return BasicBlock(channels, self.channels(stage), stride, self.norm, self.eps)
        in_res2 = self.groups * self.group_width if self.groups > 1 else self.width
        return Bottleneck(
            channels,
            in_res2 << (stage - 2),
            self.channels(stage),
            stride,
            self.norm,
            self.eps,
            self.stride_in_1x1,
            self.groups,
            dilation=2 if dilated and (block > 0 or self.dilate_first_block) else 1,
            deformable=self.deformable if stage in self.deformable_stages else "none",
        )


class ResNet(nn.Module):
    """ResNet without its classifier.

    Args:
        stages: what they are made of.
        frozen_stages: stages that do not train, from the stem: 2 is the stem and layer1.
        last_stage: 5, or 4 where res5 belongs to somebody else.
    """

    def __init__(self, stages: ResNetStages, frozen_stages: int = 2, last_stage: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stages.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(stages.norm, stages.width, stages.eps)
        self.channels = tuple(stages.channels(stage) for stage in range(2, last_stage + 1))
        self._layers = tuple(f"layer{stage - 1}" for stage in range(2, last_stage + 1))
        for stage, name in enumerate(self._layers, start=2):
            self.add_module(name, stages.build(stage))
        initialise_convolutions(self)
        parts = ((self.conv1, self.bn1), *((getattr(self, name),) for name in self._layers))
        self._frozen = tuple(part for stage in parts[:frozen_stages] for part in stage)
        for part in self._frozen:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps, each stage's.

        Args:
            x: (B, 3, H, W) normalised pixels.

        Returns:
            C2 to C5 (C4): (B, channels[i], H / 2**(i + 2), W / 2**(i + 2)); where res5 is dilated,
            C5 is as large as C4.
        """
        x = convolve(x, self.conv1, self.bn1, relu=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for name in self._layers:
            x = getattr(self, name)(x)
            features.append(x)
        return features

    def train(self, mode: bool = True) -> "ResNet":
        """Set training mode; the statistics of frozen stages stay as they are."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self


def initialise_convolutions(part: nn.Module) -> None:
    """Draw the weights of all convolutions anew; those that move taps become zero."""
    for name, module in part.named_modules():
        if name.endswith("conv2_offset"):
            reset_offsets(module)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
