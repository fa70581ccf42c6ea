"""A quarter turn takes pixels, boxes, masks and keypoints to the same place."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from model.boxes.convention import BoxConvention
from model.structures import ImageSize
from pipeline.config.augmentation import ScaleJitterConfig
from pipeline.stream.augmentation.apply import augment
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation, Window
from tests.pipeline.stream.scenes import bitmaps_of, bounds, color_of, has_mask, scenes
from tests.pipeline.stream.test_augment import bright_triangle, mask_on_image

TURNS = (0.0, 0.4, 0.7)
"""Random numbers that draw a turn by 90, 180 and 270 degrees counterclockwise."""
OF_TURN = 9
"""Which of the random numbers of an image draws the turn."""


def turn(size, quarter_turns, **changes):
    """Return the augmentation that the stream draws for a turn of an image of a size."""
    numbers = np.full((1, DRAWS), 0.99)
    numbers[0, OF_TURN] = TURNS[quarter_turns - 1]
    ranges = AugmentationRanges(
        (min(size),), 10_000, changes.pop("flip_probability", 0.0), quarter_turn_probability=1.0
    )
    [drawn] = draw_augmentations([size], numbers, ranges)
    return replace(drawn, **changes)


def assert_pixels_of_objects(sample):
    """Check that box, mask and keypoint of every object are those of the pixels of its color."""
    targets, size = sample.targets, sample.pixels.shape[:2]
    of_color = [(sample.pixels.numpy() == color_of(label)).all(-1) for label in targets.labels]
    for index, (seen, mask) in enumerate(zip(of_color, bitmaps_of(targets, size), strict=True)):
        assert targets.boxes[index].tolist() == bounds(seen)
        if has_mask(targets)[index]:
            assert np.array_equal(mask, seen)
        for x, y, visibility in targets.keypoints[index].tolist():
            assert visibility == 2 and seen[int(y), int(x)]


@given(scenes(), st.integers(1, 3))
@settings(deadline=None)
def test_objects_stay_on_their_pixels_and_the_pixels_are_those_of_numpy(scene, quarter_turns):
    before = scene.sample
    assert_pixels_of_objects(before)
    turned = augment(before, turn(before.original_size, quarter_turns))
    assert np.array_equal(turned.pixels.numpy(), np.rot90(before.pixels.numpy(), quarter_turns))
    assert torch.equal(turned.targets.labels, before.targets.labels)
    assert_pixels_of_objects(turned)


@given(scenes(), st.integers(1, 3))
@settings(deadline=None)
def test_an_image_turned_back_is_the_image(scene, quarter_turns):
    before = scene.sample
    turned = augment(before, turn(before.original_size, quarter_turns))
    turned = replace(turned, original_size=ImageSize(*turned.pixels.shape[:2]))
    after = augment(turned, turn(turned.original_size, 4 - quarter_turns))
    assert torch.equal(after.pixels, before.pixels)
    assert torch.equal(after.targets.boxes, before.targets.boxes)
    assert torch.equal(after.targets.keypoints, before.targets.keypoints)
    size = before.original_size
    assert np.array_equal(bitmaps_of(after.targets, size), bitmaps_of(before.targets, size))


@given(scenes(max_objects=8), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_torchvision_rotates_to_the_same_boxes_masks_and_keypoints(scene, quarter_turns):
    before, size = scene.sample, scene.sample.original_size
    turned = augment(before, turn(size, quarter_turns))
    image = tv_tensors.Image(before.pixels.permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(before.targets.boxes, format="XYXY", canvas_size=size)
    masks = tv_tensors.Mask(torch.from_numpy(bitmaps_of(before.targets, size)))
    points = tv_tensors.KeyPoints(before.targets.keypoints[..., :2], canvas_size=size)
    expected = [
        v2.functional.rotate(each, 90 * quarter_turns, expand=True)
        for each in (image, boxes, masks, points)
    ]
    assert torch.equal(turned.pixels, expected[0].permute(1, 2, 0))
    new_size = ImageSize(*turned.pixels.shape[:2])
    assert np.array_equal(bitmaps_of(turned.targets, new_size), expected[2].numpy())
    # It computes with the sine and cosine of 90 degrees.
    torch.testing.assert_close(turned.targets.boxes, expected[1].as_subclass(torch.Tensor))
    torch.testing.assert_close(
        turned.targets.keypoints[..., :2], expected[3].as_subclass(torch.Tensor)
    )


@settings(deadline=None, max_examples=60)
@given(
    as_runs=st.booleans(),
    scale=st.sampled_from([1.0, 2.0, 0.8]),
    left=st.integers(0, 18),
    top=st.integers(0, 12),
    flip=st.booleans(),
    quarter_turns=st.integers(1, 3),
)
def test_a_turned_augmentation_is_the_turn_of_the_augmented_image(
    as_runs, scale, left, top, flip, quarter_turns
):
    """With any scale, window and flip, to the bit."""
    size = ImageSize(round(40 * scale), round(60 * scale))
    window = Window(left, top, ImageSize(size.height - 12, size.width - 18))
    plain = Augmentation(size, flip, window=window)
    turning = turn(size, quarter_turns)
    turned = replace(
        plain,
        flip=flip ^ turning.flip,
        vertical_flip=turning.vertical_flip,
        transpose=turning.transpose,
    )
    expected, result = (
        augment(bright_triangle(as_runs), plain),
        augment(bright_triangle(as_runs), turned),
    )
    assert np.array_equal(result.pixels, np.rot90(expected.pixels, quarter_turns))
    assert len(result.targets) == len(expected.targets)
    if len(result.targets):
        before, after = (
            mask_on_image(each.targets.masks, ImageSize(*each.pixels.shape[:2]))
            for each in (expected, result)
        )
        # Borders through the middle of a pixel: half of it counts as set, on either side of it.
        assert (np.rot90(before, quarter_turns) ^ after).sum() <= 2 * sum(window.size)
        box = bounds(np.rot90(_filled(expected.targets.boxes[0], window.size), quarter_turns))
        assert np.abs(result.targets.boxes[0].numpy() - box).max() <= 1


def _filled(box, size):
    """Return the pixels (H, W) bool of which a box covers at least a part."""
    x1, y1, x2, y2 = box.tolist()
    filled = np.zeros(size, dtype=bool)
    filled[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    return filled


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_pixel_coordinates_of_the_inclusive_convention_turn_with_their_pixels(quarter_turns):
    sample = bright_triangle(False)
    last = torch.tensor([[[59.0, 39, 2], [0, 0, 2], [12, 6, 2]]])
    sample = replace(sample, targets=replace(sample.targets, keypoints=last))
    inclusive = turn(sample.original_size, quarter_turns, convention=BoxConvention(inclusive=True))
    points = augment(sample, inclusive).targets.keypoints[0, :, :2].int().tolist()
    marked = np.zeros((40, 60), dtype=int)
    for number, (x, y, _) in enumerate(last[0].int().tolist(), start=1):
        marked[y, x] = number
    turned = np.rot90(marked, quarter_turns)
    assert [turned[y, x] for x, y in points] == [1, 2, 3]


def test_left_and_right_are_exchanged_in_a_mirror_image_but_not_in_a_turn():
    sample = bright_triangle(False)
    sides = torch.tensor([[[10.0, 5, 2], [30, 5, 1]]])
    sample = replace(sample, targets=replace(sample.targets, keypoints=sides))
    for flip, vertical_flip, transpose in np.ndindex(2, 2, 2):
        how = Augmentation(
            sample.original_size,
            flip=bool(flip),
            vertical_flip=bool(vertical_flip),
            transpose=bool(transpose),
        )
        visibility = augment(sample, how, (1, 0)).targets.keypoints[0, :, 2].tolist()
        assert how.mirrors == (np.linalg.det(_matrix(how)) < 0)
        assert visibility == ([1, 2] if how.mirrors else [2, 1])


def _matrix(how):
    """Return the linear part of an augmentation of points."""
    matrix = np.diag([-1.0 if how.flip else 1.0, -1.0 if how.vertical_flip else 1.0])
    return matrix[::-1] if how.transpose else matrix


def test_turns_are_drawn_as_often_as_asked_and_all_alike():
    size = ImageSize(20, 30)
    numbers = np.random.default_rng(0).random((4000, DRAWS))
    ranges = AugmentationRanges((20,), 30, 0.0, quarter_turn_probability=0.6)
    drawn = draw_augmentations([size] * 4000, numbers, ranges)
    counts = Counter((each.flip, each.vertical_flip, each.transpose) for each in drawn)
    assert counts.keys() == {
        (False, False, False),
        (True, False, True),
        (True, True, False),
        (False, True, True),
    }
    # Six standard deviations of a count of 800 of 4000.
    assert all(
        abs(counts[each] - 800) < 6 * (4000 * 0.2 * 0.8) ** 0.5
        for each in counts
        if each != (False, False, False)
    )
    assert {each.output_size for each in drawn if each.transpose} == {(30, 20)}
    never = replace(ranges, quarter_turn_probability=0.0)
    assert {each.output_size for each in draw_augmentations([size] * 4000, numbers, never)} == {
        (20, 30)
    }


def test_the_window_of_the_scale_jitter_turns_with_its_image():
    numbers = np.full((1, DRAWS), 0.9)
    numbers[0, OF_TURN] = 0.0
    ranges = AugmentationRanges(
        (1,), 1, 0.0, scale_jitter=ScaleJitterConfig(side=50), quarter_turn_probability=0.5
    )
    [drawn] = draw_augmentations([ImageSize(20, 40)], numbers, ranges)
    assert drawn.window is not None and drawn.transpose
    assert drawn.output_size == (drawn.window.size.width, drawn.window.size.height) == (50, 45)
