"""torchvision's norm layers by our ``norm`` setting, for heads of 12 channels."""

from torch import nn

TORCHVISION_NORMS = {
    "none": None,
    "batch_norm": nn.BatchNorm2d,
    # As many groups as our group norm has for 12 channels.
    "group_norm": lambda channels: nn.GroupNorm(4, channels),
}
