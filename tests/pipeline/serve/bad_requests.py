"""Requests that a server refuses: path, body, status and a part of the reason."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MAX_BYTES, MAX_PIXELS = 100_000, 200_000


def _chunk(kind, content):
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_of_size(width, height):
    """Return a PNG file that states a size and has almost no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels)


def noise():
    """Return a PNG file that does not compress."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = noise()
BAD_REQUESTS = {
    "empty": ("predict", b"", 400, "the body is empty"),
    "text": ("predict", b"#!/bin/sh\n", 415, "not an image of a known format: JPEG, PNG"),
    "postscript": ("predict", b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "not an image of a known format"),
    "header cut off": ("draw", GOOD[:20], 400, "the image cannot be decoded: "),
    "truncated": ("predict", GOOD[:4000], 400, "the image cannot be decoded: "),
    "truncated, drawn": ("draw", GOOD[:4000], 400, "the image cannot be decoded: "),
    "bytes": ("predict", bytes(MAX_BYTES + 1), 413, "has 100,001 bytes; the limit is 100,000"),
    "pixels": ("predict", png_of_size(500, 401), 413, "500x401 is more than 200,000 pixels"),
    "too many pixels to decode": ("predict", png_of_size(14_000, 14_000), 413, "tiles"),
    "a decompression bomb": ("predict", png_of_size(60_000, 60_000), 413, "serve.max_pixels"),
    "no number": ("predict?min_score=two", GOOD, 400, "a number from 0 to 1; got 'two'"),
    "above 1": ("predict?min_score=1.5", GOOD, 400, "a number from 0 to 1; got '1.5'"),
    "no finite number": ("predict?min_score=nan", GOOD, 400, "a number from 0 to 1; got 'nan'"),
    "twice": ("predict?min_score=.1&min_score=.2", GOOD, 400, "min_score is given 2 times"),
    "misspelled": ("predict?min_scor=0.5", GOOD, 400, "'min_scor'; did you mean min_score?"),
    "unknown": ("draw?color=red", GOOD, 400, "'color'; known are min_score and classes"),
    "no such class": ("predict?classes=circel", GOOD, 400, "did you mean 'circle'?"),
    "no such path": ("detect", GOOD, 404, "Not Found"),
}
