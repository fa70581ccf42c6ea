import pytest
import torch

from model.structures import ImageBatch, ImageSize


def test_pixels_must_be_uint8_or_floating_point():
    size = (ImageSize(32, 32),)
    with pytest.raises(
        ValueError, match=r"pixels must be uint8 or floating point; got torch\.int64"
    ):
        ImageBatch(torch.zeros(1, 3, 32, 32, dtype=torch.int64), size, size)


def test_a_batch_needs_a_size_and_an_original_size_per_image():
    size = (ImageSize(32, 32),)
    with pytest.raises(ValueError, match="1 images but 1 sizes and 2 original sizes"):
        ImageBatch(torch.zeros(1, 3, 32, 32), size, size * 2)


def test_unpadded_images_are_views_of_the_batch():
    sizes = (ImageSize(20, 32), ImageSize(32, 10))
    batch = ImageBatch(torch.rand(2, 3, 32, 32), sizes, sizes)
    assert batch.canvas == (32, 32)
    for image, pixels, (height, width) in zip(batch.unpadded(), batch.pixels, sizes, strict=True):
        assert image.equal(pixels[:, :height, :width].permute(1, 2, 0))
        assert image.data_ptr() == pixels.data_ptr()
