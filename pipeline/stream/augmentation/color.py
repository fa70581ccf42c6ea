"""Random colors: brightness, contrast, saturation and hue, in this order."""

from torch import Tensor

from pipeline.stream.augmentation.parameters import ColorFactors


def change_colors(pixels: Tensor, factors: ColorFactors) -> Tensor:
    """Return pixels (H, W, 3) uint8 RGB with other colors."""
    # Takes a second to import, for a change that few recipes make.
    from torchvision.transforms.v2 import functional as F  # noqa: PLC0415

    image = pixels.permute(2, 0, 1)
    if factors.brightness != 1.0:
        image = F.adjust_brightness_image(image, factors.brightness)
    if factors.contrast != 1.0:
        image = F.adjust_contrast_image(image, factors.contrast)
    if factors.saturation != 1.0:
        image = F.adjust_saturation_image(image, factors.saturation)
    if factors.hue != 0.0:
        image = F.adjust_hue_image(image, factors.hue)
    changed: Tensor = image.permute(1, 2, 0).contiguous()
    return changed
