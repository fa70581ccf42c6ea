"""Every form of an image that callers have gives the same detections as its (h, w, 3) array."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from model import Predictor
from model.inference.input_image import open_images
from tests.model.inference.detector_kinds import ONE_SIZE_FLIPPED, assert_detections_close

RGB = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
GRAY = RGB[..., 0].copy()
ALPHA = np.dstack([RGB, GRAY])
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1)


def encode(pixels, file_format, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels_of(image, **options):
    [opened] = open_images([image], options.get("floats_are_0_to_1", False))
    pixels = opened.pixels()
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (*opened.size, 3)
    return pixels.numpy()


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        ALPHA,
        np.asfortranarray(RGB),
        TENSOR,
        torch.from_numpy(ALPHA).permute(2, 0, 1),
        Image.fromarray(RGB),
        Image.fromarray(ALPHA),
        encode(RGB, "PNG"),
        bytearray(encode(ALPHA, "PNG")),
    ],
    ids=["rgb", "rgba", "fortran", "chw", "rgba chw", "pil", "pil rgba", "bytes", "bytearray"],
)
def test_color_images_of_every_form_have_the_same_pixels(image):
    np.testing.assert_array_equal(pixels_of(image), RGB)


@pytest.mark.parametrize(
    "image",
    [
        GRAY,
        GRAY[..., None],
        torch.from_numpy(GRAY)[None],
        Image.fromarray(GRAY),
        encode(GRAY, "PNG"),
    ],
    ids=["hw", "hw1", "1hw", "pil", "bytes"],
)
def test_gray_images_of_every_form_have_three_equal_channels(image):
    np.testing.assert_array_equal(pixels_of(image), np.dstack([GRAY] * 3))


def test_paths_of_every_spelling_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("plain.png", "with space.png", "a%20b#c?d.png", "ünïcode.png", "no suffix"):
        path = tmp_path / name
        path.write_bytes(encode(RGB, "PNG"))
        np.testing.assert_array_equal(pixels_of(path), RGB)
        np.testing.assert_array_equal(pixels_of(str(path)), RGB)
        np.testing.assert_array_equal(pixels_of(f"~/{name}"), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_files_and_pil_images_are_turned_as_their_exif_data_says(
    tmp_path, file_format, orientation
):
    encoded = encode(RGB, file_format, exif=exif_of(orientation))
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape[:2] == ((80, 60) if orientation > 4 else (60, 80))
    path = tmp_path / "image"
    path.write_bytes(encoded)
    for source in (encoded, path, str(path)):
        np.testing.assert_array_equal(pixels_of(source), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels_of(image), expected)
        np.testing.assert_array_equal(pixels_of(ImageOps.exif_transpose(image)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_pil_images_of_every_8_bit_mode_are_converted(mode):
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(pixels_of(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_said_to_be_0_to_1_give_back_the_levels_they_were_made_of(dtype):
    exact = dtype is not torch.bfloat16
    values = (TENSOR.float() / 255).to(dtype)
    found = pixels_of(values, floats_are_0_to_1=True)
    np.testing.assert_allclose(found, RGB, atol=0 if exact else 1)  # bfloat16 has 8 bits
    if exact:
        array = values.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pixels_of(array, floats_are_0_to_1=True), RGB)
        big_endian = array.astype(array.dtype.newbyteorder(">"))
        np.testing.assert_array_equal(pixels_of(big_endian, floats_are_0_to_1=True), RGB)


@pytest.mark.parametrize("values", [(0.0, 255.0), (-0.1, 1.0), (0.0, 1.01), (0.0, float("nan"))])
def test_floats_beyond_0_and_1_are_rejected_with_their_range(values):
    image = np.resize(np.array(values, np.float32), (4, 4, 3))
    with pytest.raises(ValueError, match=r"image 0: floats_are_0_to_1 .* got values from"):
        pixels_of(image, floats_are_0_to_1=True)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (RGB.astype(np.float32), TypeError, "uint8; got float32: .*floats_are_0_to_1=True"),
        (TENSOR.half(), TypeError, "uint8; got float16: .*floats_are_0_to_1=True"),
        (RGB.astype(np.uint16), TypeError, "uint8; got uint16: convert it to uint8"),
        (RGB > 9, TypeError, "uint8; got bool"),
        (TENSOR.int(), TypeError, "uint8; got int32"),
        (TENSOR.numpy(), ValueError, r"got \(3, 60, 80\), .*array.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), ValueError, r"got \(60, 80, 3\), .*tensor.permute\(2, 0, 1\)"),
        (TENSOR[0], ValueError, r"got \(60, 80\): pass tensor\[None\]"),
        (RGB[..., :2], ValueError, r"got \(60, 80, 2\)"),
        (RGB[:0], ValueError, r"at least one pixel; got \(0, 80, 3\)"),
        (TENSOR[:, :, :0], ValueError, r"at least one pixel; got \(3, 60, 0\)"),
        (RGB[0, 0], ValueError, r"got \(3,\)"),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), ValueError, "more than 8 bits .*'I;16'"),
        (Image.fromarray(GRAY).convert("F"), ValueError, "more than 8 bits"),
        ("no_such.jpg", FileNotFoundError, r"image 1 \(no_such.jpg\): no such file"),
        (b"not an image", ValueError, "image 1: not an image of a known format: JPEG, PNG"),
        (b"", ValueError, "image 1: not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ValueError, "not an image"),
        (None, TypeError, "image 1 must be a path, .* got NoneType"),
        ([[0, 0], [0, 0]], TypeError, "image 1 must be a path, .* got list"),
        ({"image": TENSOR}, TypeError, 'got dict; pass its "image"'),
    ],
)
def test_an_image_that_is_not_understood_is_rejected_with_its_index_and_what_to_do(
    image, error, message
):
    with pytest.raises(error, match=message) as raised:
        open_images([RGB, image], floats_are_0_to_1=False)
    assert str(raised.value).startswith("image 1")
    assert "0x" not in str(raised.value)


@pytest.mark.parametrize(
    "images",
    [None, 3, {}, {"image": RGB}, (image for image in ())],
    ids=lambda images: type(images).__name__,
)
def test_anything_but_images_is_rejected_with_its_type(images):
    with pytest.raises(TypeError, match=f"predict takes an image .*type {type(images).__name__}"):
        open_images(images, floats_are_0_to_1=False)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(encode(RGB, "PNG")[:900])
    with pytest.raises(ValueError, match=r"image 1 \(.*cut.png\) cannot be decoded: .+"):
        open_images([RGB, path], floats_are_0_to_1=False)[1].pixels()


def test_a_file_of_16_bits_is_scaled_to_8():
    encoded = encode(GRAY.astype(np.uint16) * 257, "PNG")
    np.testing.assert_array_equal(pixels_of(encoded), np.dstack([GRAY] * 3))


def test_a_file_of_16_bits_that_would_be_black_is_rejected():
    [image] = open_images(encode(GRAY.astype(np.uint16), "PNG"), floats_are_0_to_1=False)
    with pytest.raises(ValueError, match=r"image 0 cannot be decoded: .* depth is unknown"):
        image.pixels()


def test_an_image_that_is_too_large_is_rejected_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("model.images.decode.MAX_PIXELS", 60 * 80 - 1)
    with pytest.raises(ValueError, match="image 1 cannot be decoded: 80x60 is more than 4,799"):
        open_images([RGB, encode(RGB, "PNG")], floats_are_0_to_1=False)


def test_a_view_of_bytes_is_a_file():
    np.testing.assert_array_equal(pixels_of(memoryview(encode(RGB, "PNG"))), RGB)


def test_an_open_file_is_rejected_with_what_to_pass(tmp_path):
    with pytest.raises(TypeError, match=r"image 0 is an open file; pass its path, or the bytes"):
        open_images(io.BytesIO(encode(RGB, "PNG")), floats_are_0_to_1=False)


def test_a_path_that_no_file_can_have_is_named():
    with pytest.raises(ValueError, match=r"image 0 .* cannot be read: embedded null byte"):
        open_images("a\0b.jpg", floats_are_0_to_1=False)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"image 0 \(.*\) cannot be read: Is a directory"):
        open_images(tmp_path, floats_are_0_to_1=False)


@pytest.mark.parametrize("augmentation", [None, ONE_SIZE_FLIPPED], ids=["plain", "augmented"])
@pytest.mark.parametrize(
    "image",
    [RGB, TENSOR, Image.fromarray(RGB), encode(RGB, "PNG")],
    ids=["array", "tensor", "pil", "bytes"],
)
def test_one_image_gives_its_detections_and_a_list_gives_a_list(
    make_predictor, image, augmentation
):
    predictor = make_predictor("faster", augmentation)
    [expected] = predictor.predict([RGB])
    assert len(expected) > 0
    assert_detections_close(predictor.predict(image), expected, box_atol=0, other_atol=0)
    [result] = predictor.predict((image,))
    assert_detections_close(result, expected, box_atol=0, other_atol=0)


def test_a_batch_of_equal_sizes_is_a_list(detector):
    predictor = Predictor(detector)
    expected = predictor.predict([RGB, RGB[::-1]])
    for batch in (np.stack([RGB, RGB[::-1]]), torch.stack([TENSOR, TENSOR.flip(1)])):
        for result, reference in zip(predictor.predict(batch), expected, strict=True):
            assert_detections_close(result, reference, box_atol=0, other_atol=0)


def test_files_are_decoded_batch_by_batch(detector, tmp_path, monkeypatch):
    """A list of a thousand paths must not be in memory at once."""
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path in paths:
        path.write_bytes(encode(RGB, "PNG"))
    predictor, events = Predictor(detector), []
    upload, forward = predictor._upload, detector.forward
    monkeypatch.setattr(predictor, "_upload", lambda i: events.append("decode") or upload(i))
    monkeypatch.setattr(detector, "forward", lambda b: events.append("detect") or forward(b))
    assert len(predictor.predict(paths, batch_size=2)) == 6
    assert events == ["decode", "decode", "detect"] * 3


def test_arrays_and_tensors_work_without_pillow_and_files_say_what_to_install():
    script = """
import sys
sys.modules["PIL"] = None  # importing it now fails
import numpy as np, torch
from model.inference.input_image import open_images
open_images([np.zeros((5, 5), np.uint8), torch.zeros(3, 5, 5, dtype=torch.uint8)], False)
try:
    open_images("image.jpg", False)
except ImportError as error:
    assert "pip install pillow" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
