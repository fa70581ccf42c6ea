"""A padded batch of images, and the size of each of them."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class ImageSize(NamedTuple):
    """Height and width, pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class ImageBatch:
    """B images padded to a common size.

    Args:
        pixels: (B, 3, H, W), each image in the upper left corner: uint8 RGB, or floating point if
            already normalized.
        sizes: size of each image inside the batch, without padding.
        original_sizes: size of each image before resizing. Detections are in its pixels.
        sampling_seeds: one seed per image for the random sampling of anchors and ROIs, so that the
            loss does not depend on which worker holds the image. Needed for training only.
    """

    pixels: Tensor
    sizes: tuple[ImageSize, ...]
    original_sizes: tuple[ImageSize, ...]
    sampling_seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(f"pixels must be (B, 3, H, W); got {tuple(self.pixels.shape)}")
        if self.pixels.dtype != torch.uint8 and not self.pixels.is_floating_point():
            raise ValueError(f"pixels must be uint8 or floating point; got {self.pixels.dtype}")
        if not len(self.sizes) == len(self.original_sizes) == len(self.pixels):
            raise ValueError(
                f"{len(self.pixels)} images but {len(self.sizes)} sizes and "
                f"{len(self.original_sizes)} original sizes"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return self.pixels.device

    @property
    def canvas(self) -> ImageSize:
        """Height and width of the padded batch."""
        return ImageSize(*self.pixels.shape[-2:])

    def unpadded(self) -> list[Tensor]:
        """Return each image without its padding, (h, w, 3), as a view."""
        return [
            image[:, : size.height, : size.width].permute(1, 2, 0)
            for image, size in zip(self.pixels, self.sizes, strict=True)
        ]

    def to(self, device: torch.device, non_blocking: bool = False) -> "ImageBatch":
        """Return the batch on ``device``."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))
