"""What happens to one training image, as plain numbers.

Shapes: H W pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

from model.boxes.convention import CONTINUOUS, BoxConvention
from model.structures import ImageSize


class Window(NamedTuple):
    """The part of an image that is kept, pixels."""

    left: int
    top: int
    size: ImageSize


class ColorFactors(NamedTuple):
    """Factors of brightness, contrast and saturation, 1 for no change, and a shift of the hue.

    The shift is in [-0.5, 0.5], a fraction of the color circle.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class CropTarget(NamedTuple):
    """Random numbers in [0, 1) by which a crop is moved to an object.

    Args:
        of_object: which object.
        of_left: where in the crop its center is, horizontally.
        of_top: likewise, vertically.
    """

    of_object: float
    of_left: float
    of_top: float


@dataclass(frozen=True)
class Augmentation:
    """The transform of one image: crop, resize, cut out the window, flip, transpose, change colors.

    Args:
        size: image size after resizing.
        flip: whether to flip left and right.
        convention: box convention; decides how box corners are resized and points mirrored.
        window: what is kept of the resized image; None keeps all.
        vertical_flip: whether to flip top and bottom.
        color: change of the colors; None changes nothing.
        transpose: whether to swap rows and columns; after one flip, this is a quarter turn.
        crop: what is kept of the image before it is resized; None keeps all.
        crop_target: moves the crop to an object once the objects are known
            (``random_crop.crop_to_object``); None leaves it where it is.
    """

    size: ImageSize
    flip: bool
    convention: BoxConvention = CONTINUOUS
    window: Window | None = None
    vertical_flip: bool = False
    color: ColorFactors | None = None
    transpose: bool = False
    crop: Window | None = None
    crop_target: CropTarget | None = None

    @property
    def cuts(self) -> bool:
        """Whether objects may extend beyond the resulting image."""
        return self.crop is not None or self.window is not None

    def resized_from(self, original: ImageSize) -> ImageSize:
        """Return the size of what is resized, given that of the image."""
        return original if self.crop is None else self.crop.size

    @property
    def window_size(self) -> ImageSize:
        """Size of the image before it is flipped and transposed."""
        return self.size if self.window is None else self.window.size

    @property
    def output_size(self) -> ImageSize:
        """Size of the resulting image."""
        height, width = self.window_size
        return ImageSize(width, height) if self.transpose else ImageSize(height, width)

    @property
    def mirrors(self) -> bool:
        """Whether a right hand becomes a left hand; in a turn it does not."""
        return self.flip ^ self.vertical_flip ^ self.transpose
