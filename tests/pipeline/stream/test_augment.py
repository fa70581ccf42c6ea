"""Laws of augmentation: pixels, boxes and masks stay on each other, and chance is repeatable."""

from dataclasses import replace

import numpy as np
import pycocotools.mask as coco_masks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.boxes.convention import BoxGeometry
from model.structures import BitmapMasks, ImageSize, PolygonMasks, Targets
from model.structures.batch_masks import draw_masks, encode_bitmaps, join_masks
from pipeline.stream.augment import Augmentation, TrainingSample, augment, draw_augmentation

OUTLINE = [12.0, 6.0, 40.0, 10.0, 30.0, 34.0]


def bright_triangle(as_runs):
    """A bright triangle on black, 40 x 60 pixels, with its annotation."""
    bitmap = coco_masks.decode(coco_masks.frPyObjects([OUTLINE], 40, 60))[..., 0]
    pixels = torch.from_numpy(np.repeat(bitmap[..., None] * 255, 3, 2).astype(np.uint8))
    polygons = PolygonMasks(
        torch.tensor(OUTLINE).reshape(-1, 2), torch.tensor([0, 3]), torch.tensor([0, 1])
    )
    runs = encode_bitmaps(BitmapMasks(torch.from_numpy(bitmap)[None]))
    masks = runs if as_runs else polygons
    box = torch.tensor([[12.0, 6.0, 40.0, 34.0]])
    targets = Targets(box, torch.tensor([1]), masks, image_id=5)
    return TrainingSample(pixels, targets, ImageSize(40, 60))


def mask_on_image(masks, size):
    side = max(size)
    whole = torch.tensor([[0.0, 0.0, side, side]])
    joined = join_masks([masks], torch.device("cpu"))
    drawn = draw_masks(joined, torch.tensor([0]), whole, side)[0]
    return drawn[: size.height, : size.width].numpy() > 0


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [ImageSize(40, 60), ImageSize(80, 120), ImageSize(33, 50)])
@pytest.mark.parametrize("as_runs", [False, True])
def test_the_mask_lies_on_the_bright_pixels(flip, size, as_runs):
    sample = augment(bright_triangle(as_runs), Augmentation(size, flip))
    assert tuple(sample.pixels.shape) == (*size, 3)
    bright = sample.pixels[..., 0].numpy() > 127
    mask = mask_on_image(sample.targets.masks, size)
    # They may differ by the pixels of the border.
    assert (bright ^ mask).sum() / (bright | mask).sum() < 0.12
    y, x = np.nonzero(bright)
    seen = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert np.abs(sample.targets.boxes[0].numpy() - seen).max() <= 1.5 * size.height / 40
    assert (sample.original_size, sample.targets.image_id) == ((40, 60), 5)


@pytest.mark.parametrize("as_runs", [False, True])
def test_flipping_twice_changes_nothing(as_runs):
    once = bright_triangle(as_runs)
    flip = Augmentation(ImageSize(40, 60), True)
    twice = augment(augment(once, flip), flip)
    assert torch.equal(twice.pixels, once.pixels)
    assert torch.allclose(twice.targets.boxes, once.targets.boxes)
    before, after = (mask_on_image(each.targets.masks, ImageSize(40, 60)) for each in (once, twice))
    assert np.array_equal(before, after)


def test_boxes_that_end_on_their_last_pixel_are_resized_there():
    # x y w h = 10 4 20 10: the last pixels are 29 and 13. Twice as large they are 58 and 26, so
    # that x2 and y2 behind them are 59 and 27; mirrored in 120 columns, 29 becomes 120 - 58 - 1.
    box, point = torch.tensor([[10.0, 4, 30, 14]]), torch.tensor([[[29.0, 13, 2]]])
    targets = replace(bright_triangle(False).targets, boxes=box, keypoints=point)
    sample = replace(bright_triangle(False), targets=targets)
    legacy = Augmentation(ImageSize(80, 120), False, BoxGeometry(inclusive=True))
    assert augment(sample, legacy).targets.boxes.tolist() == [[20, 8, 59, 27]]
    mirrored = augment(sample, replace(legacy, flip=True), keypoint_flip=(0,)).targets
    assert mirrored.boxes.tolist() == [[61, 8, 100, 27]]
    assert mirrored.keypoints.tolist() == [[[61, 26, 2]]]
    # An outline's x 10 becomes 120 - 20 - 1, as the pixel 10 does.
    before = sample.targets.masks.vertices[:, 0]
    torch.testing.assert_close(mirrored.masks.vertices[:, 0], 119 - 2 * before)


def test_bitmaps_are_refused_with_the_remedy():
    sample = bright_triangle(False)
    bitmaps = BitmapMasks(torch.zeros(1, 40, 60, dtype=torch.uint8))
    sample = replace(sample, targets=replace(sample.targets, masks=bitmaps))
    with pytest.raises(TypeError, match="encode_bitmaps"):
        augment(sample, Augmentation(ImageSize(20, 30), False))


def test_the_input_is_left_alone():
    sample = bright_triangle(False)
    before = sample.targets.boxes.clone(), sample.targets.masks.vertices.clone()
    augment(sample, Augmentation(ImageSize(20, 30), True))
    assert torch.equal(sample.targets.boxes, before[0])
    assert torch.equal(sample.targets.masks.vertices, before[1])


def test_an_image_without_objects_stays_without():
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    sample = TrainingSample(torch.zeros(8, 8, 3, dtype=torch.uint8), targets, ImageSize(8, 8))
    assert augment(sample, Augmentation(ImageSize(4, 4), True)).targets.boxes.shape == (0, 4)


@given(st.integers(0, 2**32), st.integers(1, 2000), st.integers(1, 2000))
def test_a_drawn_size_is_one_of_the_short_sides_within_the_limit(seed, height, width):
    size = ImageSize(height, width)
    drawn = [
        draw_augmentation(size, (64, 96), 128, 0.5, np.random.default_rng(seed)) for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert max(drawn[0].size) <= 128
    assert min(drawn[0].size) in (64, 96) or max(drawn[0].size) == 128


def test_flips_come_with_their_probability():
    def flips(probability):
        return sum(
            draw_augmentation(ImageSize(9, 9), (9,), 9, probability, np.random.default_rng(n)).flip
            for n in range(400)
        )

    assert flips(0.0) == 0 and flips(1.0) == 400
    # 400 draws at 0.25: mean 100, five standard deviations are 43.
    assert 57 < flips(0.25) < 143
