"""Images decode to 8-bit RGB, turned as their EXIF data or the caller says."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from model.images.decode import (
    IMAGE_SUFFIXES,
    STORED,
    DecodeError,
    decode_image,
    exif_orientation,
    stored_size,
    upright_size,
)
from tests.pipeline.ingest.damage import fuzz


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_as_pillow_does(kind, orientation):
    image = Image.fromarray(gradient())
    exif = image.getexif()
    exif[0x0112] = orientation
    data = encode(image, kind, exif=exif)
    opened = Image.open(io.BytesIO(data))
    stored, upright = np.asarray(opened.convert("RGB")), ImageOps.exif_transpose(opened)
    assert exif_orientation(data) == orientation
    assert np.array_equal(decode_image(data), np.asarray(upright.convert("RGB")))
    assert np.array_equal(decode_image(data, STORED), stored)
    assert upright_size(stored_size(data), orientation) == decode_image(data).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_is_part_of_the_format(orientation):
    data = encode(Image.fromarray(gradient()), "TIFF", tiffinfo={0x0112: orientation})
    upright = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for chosen in (None, STORED):
        assert np.array_equal(decode_image(data, chosen), upright)
    assert stored_size(data) == upright.shape[:2]


def test_damaged_exif_data_does_not_matter():
    data = encode(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert decode_image(data).shape == (23, 31, 3)


def jpeg_header(width, height):
    data = bytearray(encode(Image.fromarray(gradient()), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_header(width, height):
    data = encode(Image.fromarray(gradient()), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("header", [jpeg_header, png_header])
@pytest.mark.parametrize("read", [decode_image, stored_size])
def test_a_header_that_claims_a_gigapixel_is_refused_before_decoding(header, read):
    started = time.perf_counter()
    with pytest.raises(DecodeError, match=r"40000x30000 is more than|exceeds limit of"):
        read(header(40000, 30000))
    assert time.perf_counter() - started < 1


def test_formats_that_run_other_programs_are_not_opened():
    eps = encode(Image.fromarray(gradient()), "EPS")
    with pytest.raises(DecodeError, match="not an image of a known format"):
        decode_image(eps)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_listed_extension_can_be_decoded(tmp_path, suffix):
    image = Image.fromarray(gradient()).convert("L" if suffix == ".pgm" else "RGB")
    image.save(tmp_path / f"a{suffix}")
    assert decode_image((tmp_path / f"a{suffix}").read_bytes()).shape == (23, 31, 3)


RAMP = np.arange(20).reshape(4, 5)
TWELVE_BITS = (RAMP * 215).astype(np.uint16)  # up to 4085


def png_with_significant_bits(pixels, bits):
    data = encode(Image.fromarray(pixels), "PNG")
    chunk = b"sBIT" + bytes([bits])
    first = data.index(b"IDAT") - 4
    framed = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:first] + framed + data[first:]


@pytest.mark.parametrize(
    ("data", "bit_depth"),
    [
        (encode(Image.fromarray(TWELVE_BITS), "PNG"), 12),
        (png_with_significant_bits(TWELVE_BITS, 12), None),
        (encode(Image.fromarray(TWELVE_BITS), "TIFF"), 12),
        (encode(Image.fromarray(TWELVE_BITS), "TIFF", tiffinfo={281: 4095}), None),
        (encode(Image.fromarray(TWELVE_BITS.astype(np.int32)), "TIFF"), 12),
        (encode(Image.fromarray((RAMP / 19).astype(np.float32)), "TIFF"), 1),
        (
            encode(Image.fromarray((RAMP * 30).astype(np.float32)), "TIFF", tiffinfo={341: 570.0}),
            None,
        ),
    ],
)
def test_a_deep_image_is_scaled_by_what_the_file_or_the_setting_says(data, bit_depth):
    decoded = decode_image(data, None, bit_depth)
    assert decoded.shape == (4, 5, 3)
    assert np.abs(decoded[..., 0] - RAMP * 13.4).max() <= 1.5


@pytest.mark.parametrize(
    ("pixels", "kind", "bit_depth"),
    [
        (TWELVE_BITS, "PNG", None),
        (TWELVE_BITS, "TIFF", None),
        (TWELVE_BITS, "PNG", 10),
        ((RAMP * 10).astype(np.int32), "TIFF", None),
        ((RAMP / 19).astype(np.float32), "TIFF", None),
        ((RAMP / 19).astype(np.float32), "TIFF", 16),
        (np.full((4, 5), np.nan, np.float32), "TIFF", 1),
    ],
)
def test_a_deep_image_that_would_become_black_or_white_is_refused(pixels, kind, bit_depth):
    with pytest.raises(DecodeError, match=r"data\.bit_depth|not finite"):
        decode_image(encode(Image.fromarray(pixels), kind), None, bit_depth)


def test_a_black_image_of_16_bits_is_black():
    data = encode(Image.fromarray(np.zeros((4, 5), np.uint16)), "PNG")
    assert (decode_image(data) == 0).all()


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0junk", b"not an image"])
def test_data_that_is_not_an_image_is_an_error(data):
    with pytest.raises(DecodeError):
        decode_image(data)


def test_bytes_after_the_image_are_ignored():
    data = encode(Image.fromarray(gradient()), "JPEG")
    assert np.array_equal(decode_image(data + b"\0\0trailer"), decode_image(data))


def turned(kind, **options):
    image = Image.fromarray(gradient())
    exif = image.getexif()
    exif[0x0112] = 6
    return encode(image, kind, exif=exif, **options)


SEEDS = [
    turned("JPEG"),
    turned("JPEG", progressive=True),
    turned("PNG"),
    turned("WEBP"),
    png_with_significant_bits(TWELVE_BITS, 12),
    *(encode(Image.fromarray(gradient()), kind) for kind in ("BMP", "TIFF", "GIF", "PPM")),
    encode(Image.fromarray(gradient()), "TIFF", compression="tiff_lzw"),
    encode(Image.fromarray(TWELVE_BITS), "TIFF", tiffinfo={281: 4095}),
]


@fuzz
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.sampled_from([1.0, 1.0, 0.9, 0.3]),
)
def test_damaged_bytes_decode_or_are_refused_in_words(data, changes, share):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[int(position * min(len(damaged), 400))] = value
    damaged = bytes(damaged[: int(len(damaged) * share)])
    for read in (decode_image, stored_size):
        try:
            read(damaged)
        except DecodeError as error:
            assert str(error)
    assert 1 <= exif_orientation(damaged) <= 8


def color_png_of_16_bits(pixels):
    """Encode (H, W, 3) uint16, which Pillow cannot write."""
    height, width, _ = pixels.shape

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_color_of_16_bits_keeps_its_upper_8_bits_unless_they_are_unused():
    pixels = gradient().astype(np.uint16) * 257
    data = color_png_of_16_bits(pixels)
    assert np.array_equal(decode_image(data), gradient())
    dark = color_png_of_16_bits(pixels >> 4)
    with pytest.raises(DecodeError, match="its depth is unknown"):
        decode_image(dark)
    assert np.array_equal(decode_image(dark, None, 16), gradient() >> 4)
    with pytest.raises(DecodeError, match="color images with 12 bits"):
        decode_image(dark, None, 12)
