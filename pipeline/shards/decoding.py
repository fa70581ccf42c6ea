"""How the images of a dataset are decoded, as its manifest records it."""

from dataclasses import dataclass
from typing import Literal

ExifOrientation = Literal["auto", "apply", "ignore"]
"""Whether to turn images as their EXIF data says. ``auto``: only where the annotated size agrees
with the turned image and not with the stored pixels."""

UPRIGHT_KEY = "images_are_upright"
"""In the ``info`` of a COCO document: its annotations refer to images as EXIF data turns them."""


@dataclass(frozen=True)
class Decoding:
    """Settings of a dataset's images. What they mean for each image is in the image's row.

    Args:
        exif_orientation: whether to turn images as their EXIF data says.
        bit_depth: significant bits of images with more than 8 bits per channel; None follows the
            file.
    """

    exif_orientation: ExifOrientation = "auto"
    bit_depth: int | None = None


DEFAULT_DECODING = Decoding()
