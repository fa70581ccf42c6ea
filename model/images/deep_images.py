"""Scale images of 16 or 32 bits per channel to 8 bits.

A file rarely says which value is white: a camera's 12 bits often lie in 16-bit files, where a plain
conversion would make every image black. The white value is, in this order: ``2 ** bit_depth - 1``
if the caller gives a bit depth, what the file states, the full scale of unsigned 16-bit files. An
image that would become black or white by it is refused.
"""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE = 258, 281, 341  # TIFF tags
_DEEP_MODES = ("I", "F")
_FULL_SCALE_BITS = 16
_MIN_USED_BITS = 14
"""A 16-bit image that uses fewer bits, and does not say so, is thought to hold fewer."""

_ADVICE = "set data.bit_depth to its significant bits, or convert the images to 8 bits"


class UnknownDepthError(ValueError):
    """It is not known which value of an image is white."""


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether the opened file has more than 8 bits per channel."""
    return image.mode.startswith(_DEEP_MODES) or _color_bits(image, data) > 8


def to_8_bits(image: Image.Image, data: bytes, bit_depth: int | None) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 of a deep image; grayscale becomes three equal channels.

    Args:
        image: the opened file.
        data: its bytes.
        bit_depth: white is ``2 ** bit_depth - 1``: 12 for a 12-bit camera, 1 for 0.0 to 1.0; None
            follows the file.

    Raises:
        UnknownDepthError: nothing says which value is white, or values exceed it.
    """
    bits = bit_depth or _stated_png_bits(data)
    if not image.mode.startswith(_DEEP_MODES):
        return _reduced_color(image, bits)
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise UnknownDepthError("some pixels are not finite numbers")
    highest = float(values.max(initial=0))
    if image.mode.startswith("I;16") and bits is None:
        bits = None if _stated_white(image) else _FULL_SCALE_BITS
        if bits and 0 < highest < 2**_MIN_USED_BITS:
            raise UnknownDepthError(
                f"the brightest of its 16-bit pixels is {highest:g}, so its depth is unknown; "
                f"{_ADVICE}"
            )
    white = float(2**bits - 1) if bits else _stated_white(image)
    if white is None:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UnknownDepthError(f"it is {kind} and does not say which value is white; {_ADVICE}")
    if highest > white * (1 if bits is None or bits > 1 else 1.5):
        raise UnknownDepthError(f"a pixel of {highest:g} exceeds white, {white:g}; {_ADVICE}")
    if image.mode == "F" and 0 < 255 * highest < white:
        raise UnknownDepthError(
            f"it would be black: white is {white:g}, its brightest pixel {highest:g}; {_ADVICE}"
        )
    return np.repeat(_scale(values, white, bits)[..., None], 3, axis=2)


def _scale(values: NDArray[np.generic], white: float, bits: int | None) -> NDArray[np.uint8]:
    if bits is not None and bits >= 8 and np.issubdtype(values.dtype, np.integer):
        # The upper 8 bits, as most programs convert.
        shifted: NDArray[np.uint8] = (values.clip(0) >> (bits - 8)).astype(np.uint8)
        return shifted
    scaled = np.rint(values.astype(np.float64) * (255 / white))
    return scaled.clip(0, 255).astype(np.uint8)


def _reduced_color(image: Image.Image, bits: int | None) -> NDArray[np.uint8]:
    """Return a 16-bit color image, of which Pillow reads the upper 8 bits."""
    if bits is not None and bits < _FULL_SCALE_BITS:
        raise UnknownDepthError(
            f"color images with {bits} bits in 16 cannot be read; convert them to 8 bits"
        )
    pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    if bits is None and 0 < pixels.max(initial=0) < 2 ** (_MIN_USED_BITS - 8):
        raise UnknownDepthError(
            f"its 16-bit colors use fewer than {_MIN_USED_BITS} bits, so its depth is unknown; "
            "convert the images to 8 bits, or set data.bit_depth=16 if they are really so dark"
        )
    return pixels


def _color_bits(image: Image.Image, data: bytes) -> int:
    """Return the bits per channel of a color image, as the file's header gives them."""
    if image.format == "PNG" and data.startswith(_PNG_SIGNATURE):
        return data[24]
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS_PER_SAMPLE) if tags is not None else None
    values = bits if isinstance(bits, tuple) else (bits,)
    return max((each for each in values if isinstance(each, int)), default=8)


def _stated_png_bits(data: bytes) -> int | None:
    """Return the significant bits that a PNG states in its sBIT chunk."""
    if not data.startswith(_PNG_SIGNATURE):
        return None
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"sBIT" and 0 < length <= 4:
            bits = max(data[position + 8 : position + 8 + length], default=0)
            return bits if 0 < bits <= _FULL_SCALE_BITS else None
        if kind == b"IDAT":
            return None
        position += 12 + length
    return None


def _stated_white(image: Image.Image) -> float | None:
    """Return the value that the file states to be white, or to be its highest."""
    if image.format == "PPM":
        return float(2**_FULL_SCALE_BITS - 1)  # Pillow scales it
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    for tag in (_SMAX_SAMPLE_VALUE, _MAX_SAMPLE_VALUE):
        value = tags.get(tag)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None
