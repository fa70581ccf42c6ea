"""Encoded image bytes to RGB pixels.

The EXIF rotation is ignored: annotations are in the pixels as they are stored, as COCO's are.
"""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_JPEG_COLOURS = ("YCbCr", "Gray", "RGB")


class DecodeError(ValueError):
    """The bytes are no image, or not a whole one."""


def decode_image(data: bytes) -> Pixels:
    """Decode to (h, w, 3) uint8 RGB: JPEG by libjpeg-turbo, the rest by Pillow.

    Grey becomes three equal channels, CMYK is converted, transparency is dropped.

    Raises:
        DecodeError: truncated, damaged or of an unknown format.
    """
    if data[:2] == b"\xff\xd8":
        try:
            if simplejpeg.decode_jpeg_header(data)[2] in _JPEG_COLOURS:
                pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
                return pixels
        except ValueError:
            pass  # Pillow tells harmless oddities from missing data.
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I;16"):
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(str(error) or type(error).__name__) from error
