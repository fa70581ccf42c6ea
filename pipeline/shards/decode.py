"""Decode JPEG, PNG and other image files to RGB pixels.

EXIF rotation is ignored: annotations refer to the pixels as stored, as COCO's do.
"""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_JPEG_COLOR_SPACES = ("YCbCr", "Gray", "RGB")


class DecodeError(ValueError):
    """The bytes are not a complete, readable image."""


def decode_image(data: bytes) -> Pixels:
    """Decode to (H, W, 3) uint8 RGB: JPEG with libjpeg-turbo, everything else with Pillow.

    Grayscale becomes three equal channels, CMYK is converted, alpha is dropped, and 16-bit
    grayscale keeps its upper 8 bits.

    Raises:
        DecodeError: the data is truncated, damaged or in an unknown format.
    """
    if data[:2] == b"\xff\xd8":
        try:
            if simplejpeg.decode_jpeg_header(data)[2] in _JPEG_COLOR_SPACES:
                pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
                return pixels
        except ValueError:
            pass  # Pillow tolerates harmless irregularities and still rejects missing data.
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I;16"):
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(str(error) or type(error).__name__) from error
