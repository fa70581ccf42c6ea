"""A small backbone with dropout."""

from torch import nn

from model.backbones import custom_backbone


class DropoutNet(nn.Module):
    """Four stages of a convolution; dropout after the first."""

    def __init__(self, width=8):
        super().__init__()
        strides, channels = (4, 2, 2, 2), [3, width, width, width, width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.ReLU())
            for before, after, stride in zip(channels, channels[1:], strides, strict=False)
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            if not maps:
                x = self.dropout(x)
            maps.append(x)
        return maps


@custom_backbone
def make():
    return DropoutNet()


BACKBONE = {"function": f"{__name__}:make", "norm": "batch_norm"}
