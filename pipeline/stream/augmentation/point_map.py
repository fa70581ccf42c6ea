"""The map from the pixels of an image to those of its augmented version, but for a transpose."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.structures import ImageSize
from pipeline.stream.augmentation.parameters import Augmentation


@dataclass(frozen=True)
class PointMap:
    """A map of each axis: new = scale * old + shift.

    Args:
        scale: (2,) float32, x and y; negative where the axis is flipped.
        shift: (2,) float32, pixels.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, augmentation: Augmentation, original: ImageSize, inset: float) -> "PointMap":
        """Return the map of an augmentation.

        Args:
            augmentation: crop, resizing, window and flips.
            original: size of the image before.
            inset: pixels by which mirrored points move inward; see ``BoxConvention.offset``.
        """
        size, output = augmentation.size, augmentation.window_size
        before = augmentation.resized_from(original)
        factors = [size.width / before.width, size.height / before.height]
        scale = torch.tensor(factors, dtype=torch.float32)
        window, crop = augmentation.window, augmentation.crop
        shift = [0.0, 0.0] if window is None else [-float(window.left), -float(window.top)]
        if crop is not None:
            shift = [shift[0] - factors[0] * crop.left, shift[1] - factors[1] * crop.top]
        signs = [1.0, 1.0]
        sides = (output.width, output.height)
        for axis, flips in enumerate((augmentation.flip, augmentation.vertical_flip)):
            if flips:
                signs[axis] = -1.0
                shift[axis] = sides[axis] - inset - shift[axis]
        return cls(scale * torch.tensor(signs), torch.tensor(shift, dtype=torch.float32))

    def __call__(self, points: Tensor) -> Tensor:
        """Map points (..., 2)."""
        return points * self.scale + self.shift
