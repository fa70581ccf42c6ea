"""Augmentation keeps pixels, boxes, masks and keypoints aligned, and is reproducible."""

from dataclasses import replace

import numpy as np
import pycocotools.mask as coco_masks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.boxes.convention import BoxConvention
from model.config.keypoint_names import COCO_PERSON_KEYPOINTS, flip_order
from model.structures import BitmapMasks, ImageSize, PolygonMasks, Targets
from model.structures.batch_masks import encode_bitmaps, join_masks, rasterize_masks
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.stream.augmentation.apply import TrainingSample, augment
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.samples import sample_from_row

SIZE = ImageSize(40, 60)
POLYGON = [12.0, 6.0, 40.0, 10.0, 30.0, 34.0]


def bright_triangle(as_runs):
    """Return a bright triangle on black, 40 x 60 pixels, with its annotation."""
    bitmap = coco_masks.decode(coco_masks.frPyObjects([POLYGON], 40, 60))[..., 0]
    pixels = torch.from_numpy(np.repeat(bitmap[..., None] * 255, 3, 2).astype(np.uint8))
    polygons = PolygonMasks(
        torch.tensor(POLYGON).reshape(-1, 2), torch.tensor([0, 3]), torch.tensor([0, 1])
    )
    runs = encode_bitmaps(BitmapMasks(torch.from_numpy(bitmap)[None]))
    masks = runs if as_runs else polygons
    box = torch.tensor([[12.0, 6.0, 40.0, 34.0]])
    targets = Targets(box, torch.tensor([1]), masks, image_id=5)
    return TrainingSample(pixels, targets, SIZE)


def mask_on_image(masks, size):
    side = max(size)
    whole = torch.tensor([[0.0, 0.0, side, side]])
    joined = join_masks([masks], torch.device("cpu"))
    drawn = rasterize_masks(joined, torch.tensor([0]), whole, side)[0]
    return drawn[: size.height, : size.width].numpy() > 0


def sample_with(keypoints):
    """Return a blank image whose objects have these (G, P, 3) keypoints."""
    objects = len(keypoints)
    targets = Targets(
        torch.tensor([[1.0, 2.0, 30.0, 20.0]]).repeat(objects, 1),
        torch.ones(objects, dtype=torch.int64),
        keypoints=keypoints,
    )
    return TrainingSample(torch.zeros(*SIZE, 3, dtype=torch.uint8), targets, SIZE)


@st.composite
def person_keypoints(draw):
    """Draw (2, 17, 3) keypoints on whole pixels, which float32 reproduces exactly."""
    x = draw(st.lists(st.integers(0, 60), min_size=34, max_size=34))
    y = draw(st.lists(st.integers(0, 40), min_size=34, max_size=34))
    visibility = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=34, max_size=34))
    points = torch.tensor([x, y, visibility], dtype=torch.float32).T.reshape(2, 17, 3)
    return points * (points[..., 2:] > 0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [SIZE, ImageSize(80, 120), ImageSize(33, 50)])
@pytest.mark.parametrize("as_runs", [False, True])
def test_the_mask_covers_the_bright_pixels(flip, size, as_runs):
    sample = augment(bright_triangle(as_runs), Augmentation(size, flip))
    assert tuple(sample.pixels.shape) == (*size, 3)
    bright = sample.pixels[..., 0].numpy() > 127
    mask = mask_on_image(sample.targets.masks, size)
    # They may differ in border pixels.
    assert (bright ^ mask).sum() / (bright | mask).sum() < 0.12
    y, x = np.nonzero(bright)
    seen = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert np.abs(sample.targets.boxes[0].numpy() - seen).max() <= 1.5 * size.height / 40
    assert (sample.original_size, sample.targets.image_id) == ((40, 60), 5)


@given(*[st.integers(1, 90)] * 4, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_a_flipped_image_is_the_mirror_image_to_the_bit(height, width, new_height, new_width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    sample = TrainingSample(torch.from_numpy(pixels), targets, ImageSize(height, width))
    plain, flipped = (
        augment(sample, Augmentation(ImageSize(new_height, new_width), flip)).pixels
        for flip in (False, True)
    )
    assert torch.equal(flipped, plain.flip(1))


@pytest.mark.parametrize("as_runs", [False, True])
def test_flipping_an_image_twice_changes_nothing(as_runs):
    once = bright_triangle(as_runs)
    flip = Augmentation(SIZE, True)
    twice = augment(augment(once, flip), flip)
    assert torch.equal(twice.pixels, once.pixels)
    assert torch.allclose(twice.targets.boxes, once.targets.boxes)
    before, after = (mask_on_image(each.targets.masks, SIZE) for each in (once, twice))
    assert np.array_equal(before, after)


def test_legacy_boxes_are_resized_at_their_last_pixel():
    # x y w h = 10 4 20 10: the last pixels are 29 and 13. At twice the size they are 58 and 26, so
    # x2 and y2, one pixel further, are 59 and 27; mirrored in 120 columns, 29 becomes 120 - 58 - 1.
    box, point = torch.tensor([[10.0, 4, 30, 14]]), torch.tensor([[[29.0, 13, 2]]])
    targets = replace(bright_triangle(False).targets, boxes=box, keypoints=point)
    sample = replace(bright_triangle(False), targets=targets)
    legacy = Augmentation(ImageSize(80, 120), False, BoxConvention(inclusive=True))
    assert augment(sample, legacy).targets.boxes.tolist() == [[20, 8, 59, 27]]
    mirrored = augment(sample, replace(legacy, flip=True), keypoint_flip=(0,)).targets
    assert mirrored.boxes.tolist() == [[61, 8, 100, 27]]
    assert mirrored.keypoints.tolist() == [[[61, 26, 2]]]
    # A polygon's x 10 becomes 120 - 20 - 1, as pixel 10 does.
    before = sample.targets.masks.vertices[:, 0]
    torch.testing.assert_close(mirrored.masks.vertices[:, 0], 119 - 2 * before)


def test_bitmaps_are_refused_with_what_to_do():
    sample = bright_triangle(False)
    bitmaps = BitmapMasks(torch.zeros(1, 40, 60, dtype=torch.uint8))
    sample = replace(sample, targets=replace(sample.targets, masks=bitmaps))
    with pytest.raises(TypeError, match="encode_bitmaps"):
        augment(sample, Augmentation(ImageSize(20, 30), False))


def test_the_input_is_not_modified():
    sample = bright_triangle(False)
    before = sample.targets.boxes.clone(), sample.targets.masks.vertices.clone()
    augment(sample, Augmentation(ImageSize(20, 30), True))
    assert torch.equal(sample.targets.boxes, before[0])
    assert torch.equal(sample.targets.masks.vertices, before[1])


def test_an_image_without_objects_has_none_afterwards():
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    sample = TrainingSample(torch.zeros(8, 8, 3, dtype=torch.uint8), targets, ImageSize(8, 8))
    assert augment(sample, Augmentation(ImageSize(4, 4), True)).targets.boxes.shape == (0, 4)


@given(person_keypoints())
@settings(max_examples=25, deadline=None)
def test_flipping_keypoints_twice_changes_nothing(keypoints):
    flip, order = Augmentation(SIZE, True), flip_order(COCO_PERSON_KEYPOINTS)
    once = augment(sample_with(keypoints), flip, order)
    assert torch.equal(augment(once, flip, order).targets.keypoints, keypoints)
    for index, source_index in zip(range(17), order, strict=True):
        flipped, source = once.targets.keypoints[:, index], keypoints[:, source_index]
        labeled = source[:, 2] > 0
        assert torch.equal(flipped[:, 2], source[:, 2])
        assert torch.equal(flipped[labeled, 0], 60 - source[labeled, 0])
        assert torch.equal(flipped[labeled, 1], source[labeled, 1])
        assert (flipped[~labeled] == 0).all()


def test_keypoints_are_scaled_with_the_image_and_the_input_is_not_modified():
    keypoints = torch.tensor([[[30.0, 10.0, 2.0], [0.0, 0.0, 0.0], [60.0, 40.0, 1.0]]])
    sample = sample_with(keypoints.clone())
    scaled = augment(sample, Augmentation(ImageSize(20, 120), False)).targets.keypoints
    assert scaled.tolist() == [[[60, 5, 2], [0, 0, 0], [120, 20, 1]]]
    assert torch.equal(sample.targets.keypoints, keypoints)


@pytest.mark.parametrize("flip", [False, True])
def test_extreme_points_stay_on_their_side_of_the_box(keypoint_rows, flip):
    """The points top, left_side, right_side and bottom touch the box, also when mirrored."""
    for row in keypoint_rows[:6]:
        sample = sample_from_row(row, with_masks=True, keypoint_count=4)
        augmentation = Augmentation(ImageSize(70, 90), flip)
        targets = augment(sample, augmentation, flip_order(SHAPE_KEYPOINTS)).targets
        top, left, right, bottom = targets.keypoints.unbind(1)
        sides = torch.stack([left[:, 0], top[:, 1], right[:, 0], bottom[:, 1]], 1)
        # Annotations are rounded to a hundredth of a pixel, twice, and scaled.
        assert torch.allclose(sides, targets.boxes, atol=0.05)


def fractions(*numbers):
    """Return the random numbers of one image; those not given are zero."""
    return np.array([[*numbers, *[0.0] * (DRAWS - len(numbers))]])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 2000), st.integers(1, 2000))
@settings(deadline=None)
def test_a_drawn_size_has_a_given_short_side_within_the_limit(fraction, height, width):
    ranges = AugmentationRanges((64, 96), 128, flip_probability=0.5)
    [drawn] = draw_augmentations([ImageSize(height, width)], fractions(fraction, 0.5), ranges)
    short_side = 64 if fraction < 0.5 else 96
    assert max(drawn.size) <= 128
    assert min(drawn.size) == short_side or max(drawn.size) == 128


def test_an_image_is_flipped_if_its_fraction_is_below_the_probability():
    sizes, numbers = [ImageSize(9, 9)] * 3, np.zeros((3, DRAWS))
    numbers[:, 1] = 0.0, 0.25, 0.99

    def flips(probability):
        drawn = draw_augmentations(sizes, numbers, AugmentationRanges((9,), 9, probability))
        return [augmentation.flip for augmentation in drawn]

    assert flips(0.0) == [False] * 3
    assert flips(0.25) == [True, False, False]
    assert flips(1.0) == [True] * 3
