"""A padded batch of images, and the sizes of its images."""

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
    """Images padded to one size.

    Args:
        pixels: (B, 3, H, W), content in the upper left corner: uint8 RGB, or floating point where
            the detector has normalised them already.
        sizes: size of each image's content inside the batch.
        original_sizes: size of each image before resizing; detections are given in it.
        sampling_seeds: one seed per image for the random choice of training samples, so that a
            loss does not depend on which worker holds the image.
    """

    pixels: Tensor
    sizes: tuple[ImageSize, ...]
    original_sizes: tuple[ImageSize, ...]
    sampling_seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(f"pixels must be (B, 3, H, W); got {tuple(self.pixels.shape)}")
        if self.pixels.dtype != torch.uint8 and not self.pixels.is_floating_point():
            raise ValueError(f"pixels must be uint8, or normalised; got {self.pixels.dtype}")
        if not len(self.sizes) == len(self.original_sizes) == len(self.pixels):
            raise ValueError(
                f"{len(self.pixels)} images but {len(self.sizes)} sizes and "
                f"{len(self.original_sizes)} original sizes"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    def pictures(self) -> list[Tensor]:
        """The contents without padding, (h, w, 3) each: views."""
        return [
            image[:, : size.height, : size.width].permute(1, 2, 0)
            for image, size in zip(self.pixels, self.sizes, strict=True)
        ]

    def to(self, device: torch.device, non_blocking: bool = False) -> "ImageBatch":
        """The same batch on ``device``."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))
