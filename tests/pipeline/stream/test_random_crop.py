"""The crop before the resize: pixels and objects stay together, and it can always show objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.boxes.convention import BoxConvention
from model.structures import ImageSize, Targets
from pipeline.config.augmentation import RandomCropConfig, ScaleJitterConfig
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.stream.augmentation.apply import TrainingSample, augment
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation, CropTarget, Window
from pipeline.stream.augmentation.random_crop import CROP_DRAWS, crop_to_object, draw_crop
from pipeline.stream.training_stream import open_local_stream
from tests.pipeline.stream.objects import objects_of_images
from tests.pipeline.stream.scenes import BACKGROUND, bitmaps_of, bounds, has_mask, scene_of, scenes
from tests.pipeline.stream.test_augment import SIZE, bright_triangle, mask_on_image

fractions = st.floats(0, 1, exclude_max=True)


@st.composite
def crops(draw, size):
    """Draw a crop of an image of some size."""
    height, width = draw(st.integers(1, size.height)), draw(st.integers(1, size.width))
    left = draw(st.integers(0, size.width - width))
    return Window(left, draw(st.integers(0, size.height - height)), ImageSize(height, width))


@st.composite
def scenes_and_crops(draw):
    scene = draw(scenes())
    return scene, draw(crops(scene.sample.original_size))


@given(scenes_and_crops())
@settings(deadline=None)
def test_boxes_masks_and_keypoints_are_those_of_the_pixels_in_the_crop(scene_and_crop):
    scene, crop = scene_and_crop
    left, top, (height, width) = crop
    ids = scene.ids[top : top + height, left : left + width]
    result = augment(scene.sample, Augmentation(crop.size, flip=False, crop=crop))
    before, after = scene.sample.targets, result.targets
    pixels = scene.sample.pixels[top : top + height, left : left + width]
    assert torch.equal(result.pixels, pixels)
    expected = {}
    for box, label, masked in zip(
        before.boxes.numpy(), before.labels.tolist(), has_mask(before), strict=True
    ):
        clipped = np.clip(box - [left, top, left, top], 0, [width, height, width, height])
        if masked and (ids == label).any():
            expected[label] = bounds(ids == label)
        elif not masked and (clipped[2:] - clipped[:2] >= 1).all():
            expected[label] = clipped.tolist()
    assert after.labels.tolist() == list(expected)
    assert after.boxes.tolist() == list(expected.values())
    rows = zip(after.labels.tolist(), bitmaps_of(after, crop.size), has_mask(after), strict=True)
    for label, bitmap, masked in rows:
        assert np.array_equal(bitmap, ids == label) or not masked
    shift = torch.tensor([left, top, 0.0])
    for label, [point] in zip(after.labels.tolist(), after.keypoints, strict=True):
        [old] = before.keypoints[before.labels == label][0] - shift
        inside = 0 <= old[0] <= width and 0 <= old[1] <= height
        assert torch.equal(point, old if inside else torch.zeros(3))


@given(scenes_and_crops(), st.booleans(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_crop_and_the_rest_are_one_augmentation(scene_and_crop, flip, vertical_flip, transpose):
    """Exactly, at twice the size."""
    scene, crop = scene_and_crop
    twice = ImageSize(2 * crop.size.height, 2 * crop.size.width)
    rest = Augmentation(twice, flip, vertical_flip=vertical_flip, transpose=transpose)
    cropped = augment(scene.sample, Augmentation(crop.size, flip=False, crop=crop))
    cropped = replace(cropped, original_size=crop.size)
    expected = augment(cropped, rest, keypoint_flip=(0,))
    result = augment(scene.sample, replace(rest, crop=crop), keypoint_flip=(0,))
    assert torch.equal(result.pixels, expected.pixels)
    assert torch.equal(result.targets.labels, expected.targets.labels)
    assert torch.equal(result.targets.boxes, expected.targets.boxes)
    assert torch.equal(result.targets.keypoints, expected.targets.keypoints)
    size = rest.output_size
    assert np.array_equal(bitmaps_of(result.targets, size), bitmaps_of(expected.targets, size))


@settings(deadline=None, max_examples=60)
@given(
    as_runs=st.booleans(),
    scale=st.sampled_from([1.0, 2.0, 1.3]),
    crop=crops(SIZE),
    flip=st.booleans(),
    vertical_flip=st.booleans(),
    inclusive=st.booleans(),
)
def test_box_and_mask_are_those_of_the_bright_pixels_in_the_crop(
    as_runs, scale, crop, flip, vertical_flip, inclusive
):
    assume(min(crop.size) >= 10)
    size = ImageSize(*(round(side * scale) for side in crop.size))
    augmentation = Augmentation(
        size, flip, BoxConvention(inclusive), vertical_flip=vertical_flip, crop=crop
    )
    result = augment(bright_triangle(as_runs), augmentation)
    assert tuple(result.pixels.shape) == (*size, 3)
    bright = result.pixels[..., 0].numpy() > 127
    if len(result.targets) == 0:
        # At most a thin rest, whose interpolated pixels may be bright.
        assert bright.sum() <= 2 * scale * max(size)
        return
    mask = mask_on_image(result.targets.masks, size)
    # Along the outline, 2 to 3 pixels may differ.
    assert (bright ^ mask).sum() <= 3 * scale * sum(size)
    if bright.sum() > 60 * scale**2:
        box = result.targets.boxes[0].numpy()
        assert np.abs(box - bounds(bright)).max() <= 3 * scale


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    numbers=st.lists(fractions, min_size=CROP_DRAWS, max_size=CROP_DRAWS),
    kind=st.sampled_from(["relative_range", "relative", "absolute", "absolute_range"]),
)
def test_a_drawn_crop_has_the_size_of_its_type_and_lies_inside_the_image(
    height, width, numbers, kind
):
    size = (0.4, 0.7) if kind.startswith("relative") else (200, 500)
    image = ImageSize(height, width)
    crop, target = draw_crop(image, numbers, RandomCropConfig(type=kind, size=size))
    left, top, drawn = crop
    assert target is None
    assert 0 <= left <= width - drawn.width and 0 <= top <= height - drawn.height
    for side, whole, setting in zip(drawn, image, size, strict=True):
        match kind:
            case "relative_range":
                assert max(1, round(setting * whole)) <= side <= whole
            case "relative":
                assert side == max(1, round(setting * whole))
            case "absolute":
                assert side == min(setting, whole)
            case "absolute_range":
                assert min(200, whole) <= side <= min(500, whole)


def test_all_sizes_and_places_of_a_crop_are_drawn_alike():
    numbers = np.random.default_rng(0).random((6000, CROP_DRAWS)).tolist()
    settings = RandomCropConfig(type="absolute_range", size=(3, 5), probability=0.5)
    drawn = [draw_crop(ImageSize(5, 9), each, settings)[0] for each in numbers]
    cropped = [crop for crop in drawn if crop is not None]
    assert 0.47 < len(cropped) / 6000 < 0.53
    # 1/3 of each height; within four standard deviations.
    counts = np.unique([crop.size.height for crop in cropped], return_counts=True)[1]
    assert np.abs(counts / len(cropped) - 1 / 3).max() < 4 * np.sqrt(2 / 9 / len(cropped))
    lefts = [crop.left for crop in cropped if crop.size.width == 5]
    counts = np.unique(lefts, return_counts=True)[1]
    assert len(counts) == 5
    assert np.abs(counts / len(lefts) - 1 / 5).max() < 4 * np.sqrt(4 / 25 / len(lefts))


def draw(**changes):
    values = {"short_sides": (20, 30), "long_side": 90, "flip_probability": 0.5} | changes
    numbers = np.random.default_rng(1).random((40, DRAWS))
    return draw_augmentations([SIZE] * 40, numbers, AugmentationRanges(**values))


def test_a_crop_changes_no_other_random_number_and_the_rest_is_relative_to_it():
    crop = RandomCropConfig(type="absolute", size=(20, 20), probability=0.5)
    jitter = ScaleJitterConfig(side=40, min_scale=1.0, max_scale=1.0)
    for plain, cropped, jittered in zip(
        draw(), draw(random_crop=crop), draw(random_crop=crop, scale_jitter=jitter), strict=True
    ):
        assert cropped.flip == jittered.flip == plain.flip
        if cropped.crop is None:
            assert cropped == plain
            assert jittered.size == (27, 40)
        else:
            # Square, with the short side of the image that is not cropped.
            assert cropped.size == (plain.size.height,) * 2
            assert (jittered.crop, jittered.size) == (cropped.crop, (40, 40))


def shown(sample, augmentation):
    """Return the labels that a sample has after its crop was moved to an object."""
    moved = crop_to_object(augmentation, sample.targets, sample.original_size)
    left, top, (height, width) = moved.crop
    assert moved.crop.size == augmentation.crop.size
    assert 0 <= left <= sample.original_size.width - width
    assert 0 <= top <= sample.original_size.height - height
    return augment(sample, moved).targets.labels.tolist()


@given(scenes_and_crops(), st.tuples(fractions, fractions, fractions))
@settings(deadline=None, max_examples=300)
def test_an_image_with_objects_keeps_one(scene_and_crop, numbers):
    scene, crop = scene_and_crop
    augmentation = Augmentation(
        ImageSize(*(2 * side for side in crop.size)),
        flip=False,
        crop=crop,
        crop_target=CropTarget(*numbers),
    )
    if len(scene.sample.targets):
        assert shown(scene.sample, augmentation)
    else:
        moved = crop_to_object(augmentation, scene.sample.targets, scene.sample.original_size)
        assert moved == replace(augmentation, crop_target=None)
    staying = replace(augmentation, crop_target=None)
    assert crop_to_object(staying, scene.sample.targets, scene.sample.original_size) is staying


def two_rings():
    """Return objects 1 and 2: outlines of squares of 20 pixels, far apart."""
    ids = np.full((40, 100), BACKGROUND)
    for label, left in ((1, 5), (2, 70)):
        ids[10:30, left : left + 20] = label
        ids[12:28, left + 2 : left + 18] = BACKGROUND
    return scene_of(ids, {1: "runs", 2: "runs"}).sample


@pytest.mark.parametrize(("of_object", "label"), [(0.1, 1), (0.49, 1), (0.5, 2), (0.99, 2)])
@pytest.mark.parametrize("side", [6, 14, 30])
def test_the_drawn_object_is_shown_also_if_its_center_is_empty(of_object, label, side):
    size = ImageSize(side, side)
    for number in (0.0, 0.3, 0.99):
        target = CropTarget(of_object, number, number)
        crop = Window(0, 0, size)
        augmentation = Augmentation(size, False, crop=crop, crop_target=target)
        assert shown(two_rings(), augmentation) == [label]


def test_the_center_of_the_object_is_anywhere_in_the_crop():
    ids = np.full((60, 60), BACKGROUND)
    ids[30:33, 30:33] = 1
    sample = scene_of(ids, {1: "runs"}).sample
    size = ImageSize(10, 10)
    lefts = set()
    for number in np.linspace(0, 1, 50, endpoint=False):
        augmentation = Augmentation(
            size, False, crop=Window(0, 0, size), crop_target=CropTarget(0.0, number, number)
        )
        moved = crop_to_object(augmentation, sample.targets, sample.original_size)
        lefts.add(moved.crop.left)
    # The center is in pixel 31.
    assert lefts == set(range(22, 32))


def test_an_object_without_a_mask_is_shown_by_its_box():
    box = torch.tensor([[50.0, 30.0, 54.0, 33.0]])
    targets = Targets(box, torch.tensor([3]))
    sample = TrainingSample(torch.zeros(*SIZE, 3, dtype=torch.uint8), targets, SIZE)
    crop = Window(0, 0, ImageSize(8, 8))
    augmentation = Augmentation(
        ImageSize(16, 16), False, crop=crop, crop_target=CropTarget(0.2, 0.5, 0.5)
    )
    assert shown(sample, augmentation) == [3]


def test_an_object_below_a_pixel_leaves_the_crop_where_it_is():
    targets = Targets(torch.tensor([[50.0, 30.0, 50.5, 33.0]]), torch.tensor([3]))
    crop = Window(4, 5, ImageSize(8, 8))
    augmentation = Augmentation(
        ImageSize(8, 8), False, crop=crop, crop_target=CropTarget(0.2, 0.5, 0.5)
    )
    assert crop_to_object(augmentation, targets, SIZE).crop == crop


@pytest.mark.parametrize("with_object", [False, True])
def test_images_of_a_stream_keep_objects_if_asked(config, shards, with_object):
    crop = RandomCropConfig(type="relative", size=(0.2, 0.2), with_object=with_object)
    data = config.data.model_copy(update={"random_crop": crop})
    cropped = config.model_copy(update={"data": data})
    manifest = read_manifest(shards)
    rows = [row for file in manifest.files for row in read_rows(shards, file.name)]
    filled = {row.image_id for row in rows if len(row.boxes)}
    empty = images = 0
    with open_local_stream(cropped, shards, 0, 1, 0, 20) as stream:
        for batch in stream:
            for image in objects_of_images(batch):
                if image.image_id in filled:
                    images += 1
                    empty += not len(image.boxes)
    assert images > 60
    assert empty == 0 if with_object else empty > 10
