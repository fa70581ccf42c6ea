import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.preprocess import canvas_size, pad_batch, resize_image, resized_size
from model.structures import ImageSize

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (ImageSize(480, 640), ImageSize(800, 1067)),
        (ImageSize(640, 480), ImageSize(1067, 800)),
        (ImageSize(300, 900), ImageSize(444, 1333)),
        (ImageSize(800, 1000), ImageSize(800, 1000)),
    ],
)
def test_the_published_sizes_of_coco_images(size, expected):
    assert resized_size(size, 800, 1333) == expected


@given(SIDES, SIDES, st.integers(1, 1000), st.integers(0, 1000))
def test_one_limit_is_reached_and_none_exceeded(height, width, short, more):
    size = resized_size(ImageSize(height, width), short, short + more)
    assert min(size) <= short
    assert max(size) <= short + more
    assert min(size) == short or max(size) == short + more


def test_resizing_agrees_with_pil_within_a_level():
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    resized = resize_image(torch.from_numpy(pixels), ImageSize(61, 45)).numpy()
    expected = np.array(Image.fromarray(pixels).resize((45, 61), Image.Resampling.BILINEAR))
    # Both round after either axis: one level.
    assert np.abs(resized.astype(int) - expected).max() <= 1


def test_a_batch_holds_the_pixels_in_the_corner_and_zeros_elsewhere():
    images = [
        torch.full((20, 50, 3), 7, dtype=torch.uint8),
        torch.full((40, 30, 3), 9, dtype=torch.uint8),
    ]
    batch = pad_batch(images, [ImageSize(10, 25), ImageSize(40, 30)], (1, 2))
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert (batch.pixels[0, :, :20, :50] == 7).all()
    assert batch.pixels.long().sum() == 3 * (7 * 20 * 50 + 9 * 40 * 30)
    assert batch.sizes == (ImageSize(20, 50), ImageSize(40, 30))
    assert batch.original_sizes == (ImageSize(10, 25), ImageSize(40, 30))


def test_a_canvas_can_be_larger_than_the_images_but_never_smaller():
    image = torch.zeros(20, 50, 3, dtype=torch.uint8)
    batch = pad_batch([image], [ImageSize(20, 50)], canvas=ImageSize(96, 32))
    assert batch.pixels.shape[2:] == (96, 64)
    assert canvas_size([ImageSize(33, 64)]) == ImageSize(64, 64)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        pad_batch([], [])
