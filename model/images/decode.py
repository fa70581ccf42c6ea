"""Decode JPEG, PNG and other image files to RGB pixels: the one decoder of all jobs.

A file may say in its EXIF data how to turn the stored pixels upright. Whoever decodes it decides:
ingest records for each image whether its annotations refer to upright or to stored pixels.

Shapes: H W pixels.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.images.deep_images import UnknownDepthError, is_deep, to_8_bits

Pixels = NDArray[np.uint8]

_FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm"),
    "JPEG2000": (".jp2",),
}

FORMATS = tuple(_FORMATS)
"""What is decoded. Pillow knows more, some of which run other programs (EPS)."""

IMAGE_SUFFIXES = tuple(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
"""The extensions of image files, in training and in inference."""

MAX_PIXELS = 178_956_970
"""A larger image (half a gigabyte of RGB) is refused before it is decoded; Pillow's own limit."""

STORED = 1
"""The EXIF orientation of pixels that are stored upright."""

_JPEG_COLOR_SPACES = ("YCbCr", "Gray", "RGB")
_ORIENTATION_TAG = 0x0112
_EXIF_MARKS = (b"Exif\0\0", b"eXIf", b"EXIF", b"Raw profile type")
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width


class DecodeError(ValueError):
    """The bytes are not a complete, readable image, or they cannot be converted to 8 bits."""


class UnknownFormatError(DecodeError):
    """The bytes are not an image of a format that is decoded."""


class TooManyPixelsError(DecodeError):
    """The image is larger than `MAX_PIXELS`."""


def decode_image(
    data: bytes, orientation: int | None = None, bit_depth: int | None = None
) -> Pixels:
    """Decode to (H, W, 3) uint8 RGB: JPEG with libjpeg-turbo, everything else with Pillow.

    Grayscale becomes three equal channels, CMYK is converted, alpha is dropped, and deeper images
    are scaled to 8 bits (`model.images.deep_images.to_8_bits`).

    Args:
        data: the encoded image.
        orientation: EXIF orientation to turn the stored pixels by, 1 to 8; `STORED` leaves them as
            they are, None follows the file.
        bit_depth: significant bits of images with more than 8; None follows the file.

    Raises:
        DecodeError: the data is truncated, damaged, in an unknown format, larger than `MAX_PIXELS`
            or of unknown depth.
    """
    pixels = _decode_jpeg(data)
    if pixels is None:
        with _opened(data) as image:
            pixels = to_8_bits(image, data, bit_depth) if is_deep(image, data) else _to_rgb(image)
    return turn_upright(pixels, exif_orientation(data) if orientation is None else orientation)


def stored_size(data: bytes) -> tuple[int, int]:
    """Return the height and width of the stored pixels without decoding them.

    Raises:
        UnknownFormatError: the data is not an image.
        TooManyPixelsError: it is larger than `MAX_PIXELS`.
        DecodeError: its header is damaged.
    """
    with _opened(data) as image:
        return image.height, image.width


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the height and width of an image after it is turned by an EXIF orientation."""
    return (size[1], size[0]) if orientation in _TURNED else size


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels (H, W, 3) upright, as EXIF defines its orientations 1 to 8."""
    if orientation == STORED:
        return pixels
    turned = pixels.transpose(1, 0, 2) if orientation in _TURNED else pixels
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)


def exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation of an encoded image, 1 to 8; `STORED` if it has none.

    That of a TIFF is part of the format: every reader applies it, so its pixels count as upright.
    """
    if not any(mark in data for mark in _EXIF_MARKS):
        return STORED
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return orientation_of(image)
    except Exception:  # Pillow raises errors of many types for damaged files
        return STORED


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of a PIL image, 1 to 8; `STORED` if it has none."""
    if image.format == "TIFF":
        return STORED  # Pillow itself turns it
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF data raises errors of many types; the image may still be fine
        return STORED
    return value if isinstance(value, int) and 1 <= value <= 8 else STORED


def _decode_jpeg(data: bytes) -> Pixels | None:
    """Decode with libjpeg-turbo; None if it is no JPEG, or one that only Pillow can read."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_pixels(height, width)
    if color_space not in _JPEG_COLOR_SPACES:
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None  # Pillow tolerates harmless irregularities and still rejects missing data.
    return pixels


def jpeg_error(data: bytes) -> str | None:
    """Return the first irregularity of a JPEG, even if it can be decoded; None if there is none."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        return str(error)
    return None


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Yield the image, not yet decoded; errors become `DecodeError`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.height, image.width)
            yield image
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        size = str(error).partition(", could be")[0]  # the rest is advice for programmers
        raise TooManyPixelsError(f"{size}; cut the image into tiles") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise UnknownFormatError(f"not an image of a known format: {known}") from None
    except DecodeError:
        raise
    except UnknownDepthError as error:
        raise DecodeError(str(error)) from None
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise DecodeError(str(error) or type(error).__name__) from error


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise TooManyPixelsError(
            f"{width}x{height} is more than {MAX_PIXELS:,} pixels; cut the image into tiles"
        )


def _to_rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))
