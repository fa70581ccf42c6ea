"""`Predictor.predict` sees the same pixels in an image file as batch inference does."""

import io

import numpy as np
import pytest
from PIL import Image

from model.images import decode
from model.images.decode import FORMATS
from model.inference.input_image import open_images


def pixels_of(source):
    [image] = open_images(source, floats_are_0_to_1=False)
    return image.pixels().numpy()


def test_real_images_have_the_same_pixels_in_predict_and_in_batch_inference(coco_tiny):
    for path in sorted((coco_tiny / "val2017").glob("*.jpg"))[:20]:
        np.testing.assert_array_equal(pixels_of(path), decode.decode_image(path.read_bytes()))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P"])
def test_images_of_every_kind_have_the_same_pixels(mode, file_format, orientation):
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    try:
        Image.fromarray(noise).convert(mode).save(buffer, file_format, exif=exif)
    except (OSError, ValueError):
        pytest.skip(f"{file_format} has no images of mode {mode}")
    encoded = buffer.getvalue()
    np.testing.assert_array_equal(pixels_of(encoded), decode.decode_image(encoded))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_images_of_16_bits_have_the_same_pixels(file_format):
    noise = np.random.default_rng(0).integers(0, 2**16, (24, 40), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, file_format)
    encoded = buffer.getvalue()
    np.testing.assert_array_equal(pixels_of(encoded), decode.decode_image(encoded))
    assert np.unique(pixels_of(encoded)).size > 200
