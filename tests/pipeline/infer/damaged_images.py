"""Images on disk that cannot be decoded, damaged in ten ways."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(rng, image_format, side=64):
    """Return an image of rectangles on noise."""
    pixels = rng.integers(60, 120, (side, side, 3), dtype=np.uint8)
    for _ in range(3):
        y, x = rng.integers(0, side - 20, 2)
        pixels[y : y + 20, x : x + 20] = rng.integers(0, 256, 3, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def _png_of_size(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
        for each in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _flip(data, position):
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


WAYS = {
    "empty": lambda rng: b"",
    "one byte": lambda rng: b"\xff",
    "text": lambda rng: b"<html>404 not found</html>",
    "another format": lambda rng: b"GIF89a and then nothing",
    "half a JPEG": lambda rng: (whole := encode(rng, "JPEG"))[: len(whole) // 2],
    "half a PNG": lambda rng: (whole := encode(rng, "PNG"))[: len(whole) // 2],
    "the head of a JPEG": lambda rng: encode(rng, "JPEG")[:30],
    "a flipped byte in a PNG": lambda rng: _flip(encode(rng, "PNG"), 500),
    "a huge PNG": lambda rng: _png_of_size(400_000, 400_000),
    "a PNG without area": lambda rng: _png_of_size(0, 10),
}
"""Way -> a function of a random generator that returns such a file."""
