"""ResNet and ResNeXt without the classifier. Layers have torchvision's names, so its weights fit.

Source: He et al. 2016, table 1; Xie et al. 2017, table 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.activation_checkpointing import checkpoint_blocks
from model.backbones.blocks import BasicBlock, Bottleneck
from model.config import BackboneConfig, Conventions
from model.config.conventions import NORM_EPSILON
from model.layers.convolution import convolve
from model.layers.deformable import init_offset_conv
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
    """How to build the stages res2 to res5.

    Args:
        depth: 18, 34, 50, 101 or 152. Everything but width and norm needs bottlenecks (>= 50).
        norm: kind of the norms, as for ``make_norm``.
        eps: epsilon of the norms.
        width: channels of the stem; 64 in the paper.
        stride_in_1x1: bottlenecks have their stride in the first 1x1 convolution, as in the paper
            and Detectron; otherwise in the 3x3, as in torchvision.
        groups: groups of the 3x3 convolutions; more than one makes a ResNeXt.
        group_width: channels of a group in res2, doubled with every stage.
        deformable: none, v1 or v2, for the 3x3 convolutions of ``deformable_stages``.
        deformable_stages: 2 to 5.
        dilated: res5 has dilated 3x3 convolutions instead of a stride.
        dilate_first_block: dilate the first block of res5 too (detectron2); otherwise all but the
            first, which keeps the taps of the strided convolution (torchvision).
    """

    depth: int = 50
    norm: str = "frozen_bn"
    eps: float = NORM_EPSILON
    width: int = 64
    stride_in_1x1: bool = False
    groups: int = 1
    group_width: int = 64
    deformable: str = "none"
    deformable_stages: tuple[int, ...] = (3, 4, 5)
    dilated: bool = False
    dilate_first_block: bool = False

    @classmethod
    def from_config(cls, backbone: BackboneConfig, conventions: Conventions) -> "ResNetStages":
        """Return the stages that these settings describe."""
        return cls(
            depth=backbone.depth,
            norm=backbone.norm,
            eps=conventions.norm_epsilon,
            width=backbone.width,
            stride_in_1x1=conventions.stride_in_1x1,
            groups=backbone.groups,
            group_width=backbone.group_width,
            deformable=backbone.deformable,
            deformable_stages=backbone.deformable_stages,
            dilated=backbone.features == "dc5",
            dilate_first_block=conventions.dilate_first_block,
        )

    def channels(self, stage: int) -> int:
        """Return the output channels of a stage; the stem is stage 1."""
        if stage == 1:
            return self.width
        kind = Bottleneck if self.depth >= 50 else BasicBlock
        return self.width * kind.expansion << (stage - 2)

    def build(self, stage: int) -> nn.Sequential:
        """Return the blocks of stage 2 to 5, with torch's initialization."""
        blocks = range(BLOCKS[self.depth][stage - 2])
        return nn.Sequential(*(self._build_block(stage, block) for block in blocks))

    def _build_block(self, stage: int, block: int) -> nn.Module:
        channels = self.channels(stage - 1 if block == 0 else stage)
        dilated = self.dilated and stage == 5
        stride = 2 if block == 0 and stage > 2 and not dilated else 1
        if self.depth < 50:
            return BasicBlock(channels, self.channels(stage), stride, self.norm, self.eps)
        width_in_res2 = self.groups * self.group_width if self.groups > 1 else self.width
        return Bottleneck(
            channels,
            width_in_res2 << (stage - 2),
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
    """The stem and the stages res2 to res5.

    Args:
        stages: how to build the stages.
        frozen_stages: number of stages that are not trained, from the stem: 2 is stem and layer1.
        last_stage: 5, or 4 if res5 is the box head.
    """

    def __init__(self, stages: ResNetStages, frozen_stages: int = 2, last_stage: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stages.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(stages.norm, stages.width, stages.eps)
        self.checkpoints_activations = False
        """Whether trained stages keep few of their maps for the backward pass."""
        self.channels = tuple(stages.channels(stage) for stage in range(2, last_stage + 1))
        self._layers = tuple(f"layer{stage - 1}" for stage in range(2, last_stage + 1))
        for stage, name in enumerate(self._layers, start=2):
            self.add_module(name, stages.build(stage))
        init_convolutions(self)
        parts = ((self.conv1, self.bn1), *((getattr(self, name),) for name in self._layers))
        self._frozen = tuple(part for stage in parts[:frozen_stages] for part in stage)
        for part in self._frozen:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature map of each stage.

        Args:
            x: (B, 3, H, W) normalized pixels.

        Returns:
            C2 to C5 (or C4): (B, channels[i], H / 2**(i + 2), W / 2**(i + 2)). A dilated C5 has
            the size of C4.
        """
        x = convolve(x, self.conv1, self.bn1, relu=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for name in self._layers:
            stage = getattr(self, name)
            if self.checkpoints_activations and stage.training and torch.is_grad_enabled():
                x = checkpoint_blocks(stage, x)
            else:
                x = stage(x)
            features.append(x)
        return features

    def train(self, mode: bool = True) -> "ResNet":
        """Set training mode, but keep the norm statistics of frozen stages fixed."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self


def init_convolutions(module: nn.Module) -> None:
    """Initialize convolutions as in He et al. 2015, and those that predict offsets to zero."""
    for name, layer in module.named_modules():
        if name.endswith("conv2_offset"):
            init_offset_conv(layer)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
