"""Images decode to their stored pixels, in three channels."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.decode import DecodeError, decode_image


def gradient(height=23, width=31):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 9, (x + y) * 4], 2).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_lossless_image_decodes_exactly():
    pixels = gradient()
    assert np.array_equal(decode_image(encode(Image.fromarray(pixels), "PNG")), pixels)


def test_a_jpeg_decodes_as_with_pillow():
    data = encode(Image.fromarray(gradient()), "JPEG", quality=85)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grayscale_becomes_three_equal_channels(kind):
    decoded = decode_image(encode(Image.fromarray(gradient()).convert("L"), kind))
    assert decoded.shape == (23, 31, 3)
    assert (decoded == decoded[..., :1]).all()


def test_cmyk_keeps_its_colors():
    data = encode(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(data).astype(int) - gradient()).mean() < 4


def test_transparency_and_palettes_become_rgb():
    pixels = gradient()
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])
    assert np.array_equal(decode_image(encode(Image.fromarray(rgba), "PNG")), pixels)
    flat = Image.fromarray(np.full((4, 5, 3), (9, 99, 199), np.uint8)).quantize(4)
    assert (decode_image(encode(flat, "PNG")) == (9, 99, 199)).all()


def test_16_bit_grayscale_keeps_the_upper_8_bits():
    deep = (np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000).astype(np.uint16)
    decoded = decode_image(encode(Image.fromarray(deep), "PNG"))
    assert np.array_equal(decoded[..., 0], deep >> 8)


def test_exif_rotation_is_ignored():
    image = Image.fromarray(gradient())
    exif = image.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    assert decode_image(encode(image, "JPEG", exif=exif)).shape == (23, 31, 3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0junk", b"not an image"])
def test_data_that_is_not_an_image_is_an_error(data):
    with pytest.raises(DecodeError):
        decode_image(data)


def test_bytes_after_the_image_are_ignored():
    data = encode(Image.fromarray(gradient()), "JPEG")
    assert np.array_equal(decode_image(data + b"\0\0trailer"), decode_image(data))
