import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ops_cuda
from ops_cuda.preprocess import preprocess_reference, resize_image_reference

IMPLEMENTATIONS = pytest.mark.parametrize(
    "resize", [ops_cuda.resize_image, resize_image_reference], ids=["public", "reference"]
)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def random_image(height, width, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def pil_resize(pixels, height, width):
    image = Image.fromarray(pixels.numpy())
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))


def normalized(pixels, mean=MEAN, std=STD, reverse=False):
    """(3, h, w) float32, from the definition."""
    levels = pixels.float().flip(2) if reverse else pixels.float()
    inverse = torch.tensor([1 / value for value in std])
    return ((levels - torch.tensor(mean)) * inverse).permute(2, 0, 1)


@IMPLEMENTATIONS
def test_known_answers(resize):
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).view(1, 3, 1).expand(1, 3, 3)
    # centers at -1/4, 1/4, 3/4 ... of a source pixel: quarters of the neighbors
    assert resize(row, 1, 6)[0, :, 0].tolist() == [0, 25, 75, 125, 175, 200]
    steps = torch.tensor([0, 80, 160, 240], dtype=torch.uint8).view(4, 1, 1).expand(4, 1, 3)
    # halving: 3/8, 3/8, 1/8 at the border, normalized by 7/8
    assert resize(steps, 2, 1)[:, 0, 0].tolist() == [round(400 / 7), round(1280 / 7)]


SIZES = [
    ((480, 640), (800, 1067)),
    ((120, 90), (61, 45)),
    ((333, 500), (333, 200)),
    ((100, 70), (100, 200)),
    ((1, 1), (40, 30)),
    ((40, 30), (1, 1)),
    ((2000, 3), (5, 300)),
    ((7, 900), (500, 2)),
    ((31, 37), (31, 37)),
    ((300, 100), (60, 20)),
]


@IMPLEMENTATIONS
@pytest.mark.parametrize(("size", "target"), SIZES)
def test_resizing_gives_the_bits_of_pillow(resize, size, target):
    pixels = random_image(*size)
    assert resize(pixels, *target).equal(pil_resize(pixels, *target))


@pytest.mark.parametrize("short_side", [800, 200])
def test_real_images_are_resized_to_the_bits_of_pillow(coco_tiny, short_side):
    split = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    for entry in split["images"][:4]:
        path = coco_tiny / "val2017" / entry["file_name"]
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        scale = short_side / min(pixels.shape[:2])
        target = [round(side * scale) for side in pixels.shape[:2]]
        assert ops_cuda.resize_image(pixels, *target).equal(pil_resize(pixels, *target))


SIDES = st.integers(1, 60)


@settings(deadline=None, max_examples=300)
@given(*[st.one_of(SIDES, st.integers(1, 300))] * 4, st.integers(0, 2**16))
def test_any_size_gives_the_bits_of_pillow(height, width, new_height, new_width, seed):
    pixels = random_image(height, width, seed)
    expected = pil_resize(pixels, new_height, new_width)
    assert ops_cuda.resize_image(pixels, new_height, new_width).equal(expected)
    assert resize_image_reference(pixels, new_height, new_width).equal(expected)


def test_tall_images_are_resized_along_their_rows_first():
    """Pillow 13's order: the height shrinks by more than twice what the width does."""
    pixels = random_image(100, 60)
    for width in (24, 25, 26, 27):  # 2 * (60 - 25) = 100 - 30
        assert ops_cuda.resize_image(pixels, 30, width).equal(pil_resize(pixels, 30, width))


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(1, 300), st.integers(1, 300), st.integers(0, 255))
def test_resizing_keeps_a_constant_color(height, width, new_height, new_width, level):
    pixels = torch.full((height, width, 3), level, dtype=torch.uint8)
    assert ops_cuda.resize_image(pixels, new_height, new_width).eq(level).all()


def scene():
    """Images to enlarge, to shrink, to keep, and of one pixel; their sizes; the canvas."""
    images = [random_image(30, 40), random_image(90, 75), random_image(20, 33)]
    images += [random_image(1, 1), random_image(20, 33)]
    return images, [(48, 64), (31, 20), (20, 33), (5, 1), (20, 50)], (64, 70)


@pytest.mark.parametrize("reverse", [False, True], ids=["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_has_the_resized_normalized_images_in_its_corner_and_zeros_elsewhere(
    reverse, dtype
):
    images, sizes, canvas = scene()
    batch = ops_cuda.preprocess(images, sizes, canvas, MEAN, STD, reverse, dtype)
    assert batch.shape == (5, 3, *canvas)
    assert batch.dtype == dtype
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for result, image, (height, width) in zip(batch, images, sizes, strict=True):
        resized = ops_cuda.resize_image(image, height, width)
        expected = normalized(resized, reverse=reverse).to(dtype)
        assert result[:, :height, :width].equal(expected)
        assert result[:, height:].eq(0).all()
        assert result[:, :, width:].eq(0).all()


@pytest.mark.parametrize("reverse", [False, True], ids=["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_gives_the_same_batch(reverse, dtype):
    images, sizes, canvas = scene()
    heights, widths = zip(*sizes, strict=True)
    actual = ops_cuda.preprocess(images, sizes, canvas, MEAN, STD, reverse, dtype)
    expected = preprocess_reference(
        images, heights, widths, *canvas, MEAN, STD, reverse, dtype, antialias=True
    )
    assert expected.stride() == actual.stride()
    assert actual.equal(expected)


@pytest.mark.parametrize("use_reference", [False, True], ids=["public", "reference"])
@pytest.mark.parametrize("reverse", [False, True], ids=["rgb", "bgr"])
def test_without_antialiasing_levels_equal_torch_interpolate(reverse, use_reference):
    images, sizes, canvas = scene()
    heights, widths = zip(*sizes, strict=True)
    if use_reference:
        normalization = (MEAN, STD, reverse, torch.float32, False)
        batch = preprocess_reference(images, heights, widths, *canvas, *normalization)
    else:
        batch = ops_cuda.preprocess(images, sizes, canvas, MEAN, STD, reverse, antialias=False)
    for result, image, (height, width) in zip(batch, images, sizes, strict=True):
        floats = normalized(image, reverse=reverse)[None]
        expected = F.interpolate(floats, (height, width), mode="bilinear", align_corners=False)[0]
        # float32 sums of levels up to 255, over 57
        torch.testing.assert_close(result[:, :height, :width], expected, atol=1e-4, rtol=0)
        assert result[:, height:].eq(0).all()


def test_rows_may_have_any_stride():
    wide = random_image(50, 80)
    view = wide[3:40, 5:70]
    assert not view.is_contiguous()
    for layout in (view, view.flip(1), view.transpose(0, 1), view[::2], view[:, ::2], wide[:, :1]):
        for size in ((20, 30), tuple(layout.shape[:2])):
            expected = ops_cuda.resize_image(layout.contiguous(), *size)
            assert ops_cuda.resize_image(layout, *size).equal(expected)
            batch = ops_cuda.preprocess([layout], [size], (96, 96), MEAN, STD)
            assert batch[0, :, : size[0], : size[1]].equal(normalized(expected))


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    images = [random_image(200, 300), random_image(300, 200)]
    sizes, canvas = [(320, 480), (480, 320)], (480, 480)
    one, two = two_thread_counts(
        lambda: ops_cuda.preprocess(images, sizes, canvas, MEAN, STD, dtype=torch.bfloat16)
    )
    assert one.equal(two)


PIXELS = random_image(4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [], "sizes": []}, "at least one image"),
        ({"sizes": [(4, 5)] * 2}, "1 images but 2 sizes"),
        ({"images": [PIXELS.permute(2, 0, 1)]}, r"images\[0\] must be \(h, w, 3\).*permute"),
        ({"images": [PIXELS[:0]]}, "not empty"),
        ({"images": [PIXELS.float()]}, r"images\[0\] must be uint8"),
        ({"sizes": [(9, 5)]}, "fit the canvas"),
        ({"sizes": [(4, 0)]}, r"sizes\[0\] must be positive"),
        ({"mean": (1.0, 2.0)}, "mean must be three"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be three positive"),
        ({"std": (1.0, float("nan"), 1.0)}, "std must be three positive"),
        ({"dtype": torch.float64}, "dtype must be one of"),
    ],
)
def test_invalid_arguments_are_named(changes, message):
    arguments = {
        "images": [PIXELS],
        "sizes": [(4, 5)],
        "canvas": (8, 8),
        "mean": MEAN,
        "std": STD,
    }
    with pytest.raises(ValueError, match=message):
        ops_cuda.preprocess(**(arguments | changes))


def test_invalid_sizes_of_one_image_are_named():
    with pytest.raises(ValueError, match="height must be positive"):
        ops_cuda.resize_image(PIXELS, 0, 5)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        ops_cuda.resize_image(PIXELS.int(), 4, 5)
