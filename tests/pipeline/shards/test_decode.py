"""Laws of decoding: the pixels as stored, in three channels."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.decode import DecodeError, decode_image


def picture(height=23, width=31):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 9, (x + y) * 4], 2).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_lossless_image_comes_back_exactly():
    pixels = picture()
    assert np.array_equal(decode_image(encode(Image.fromarray(pixels), "PNG")), pixels)


def test_a_jpeg_decodes_as_pillow_decodes_it():
    data = encode(Image.fromarray(picture()), "JPEG", quality=85)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_has_three_equal_channels(kind):
    decoded = decode_image(encode(Image.fromarray(picture()).convert("L"), kind))
    assert decoded.shape == (23, 31, 3)
    assert (decoded == decoded[..., :1]).all()


def test_cmyk_keeps_its_colours():
    data = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(data).astype(int) - picture()).mean() < 4


def test_transparency_and_palettes_become_rgb():
    pixels = picture()
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])
    assert np.array_equal(decode_image(encode(Image.fromarray(rgba), "PNG")), pixels)
    flat = Image.fromarray(np.full((4, 5, 3), (9, 99, 199), np.uint8)).quantize(4)
    assert (decode_image(encode(flat, "PNG")) == (9, 99, 199)).all()


def test_sixteen_bits_keep_their_upper_eight():
    deep = (np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000).astype(np.uint16)
    decoded = decode_image(encode(Image.fromarray(deep), "PNG"))
    assert np.array_equal(decoded[..., 0], deep >> 8)


def test_the_exif_rotation_is_ignored():
    image = Image.fromarray(picture())
    exif = image.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    assert decode_image(encode(image, "JPEG", exif=exif)).shape == (23, 31, 3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0junk", b"no image at all"])
def test_what_is_no_image_is_an_error(data):
    with pytest.raises(DecodeError):
        decode_image(data)


def test_bytes_after_the_image_do_not_matter():
    data = encode(Image.fromarray(picture()), "JPEG")
    assert np.array_equal(decode_image(data + b"\0\0trailer"), decode_image(data))
