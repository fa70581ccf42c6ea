"""Random scales with a window, vertical flips and colors: pixels and objects stay together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.boxes.convention import BoxConvention
from model.preprocess import resize_image
from model.structures import (
    BitmapMasks,
    ImageSize,
    MixedMasks,
    PolygonMasks,
    Targets,
)
from model.structures.batch_masks import encode_bitmaps
from pipeline.config.augmentation import ColorJitterConfig, ScaleJitterConfig
from pipeline.stream.augmentation.apply import TrainingSample, augment, augment_pixels
from pipeline.stream.augmentation.color import change_colors
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation, ColorFactors, Window
from pipeline.stream.augmentation.visible_objects import clip_polygon
from tests.pipeline.stream.test_augment import (
    SIZE,
    bright_triangle,
    mask_on_image,
    sample_with,
)


def seen_box(bright):
    y, x = np.nonzero(bright)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


@settings(deadline=None, max_examples=60)
@given(
    as_runs=st.booleans(),
    scale=st.sampled_from([1.0, 2.0, 1.3]),
    left=st.integers(0, 30),
    top=st.integers(0, 20),
    flip=st.booleans(),
    vertical_flip=st.booleans(),
    inclusive=st.booleans(),
)
def test_box_and_mask_are_those_of_the_bright_pixels_in_the_window(
    as_runs, scale, left, top, flip, vertical_flip, inclusive
):
    size = ImageSize(round(SIZE.height * scale), round(SIZE.width * scale))
    window = Window(left, top, ImageSize(size.height - 20, size.width - 30))
    augmentation = Augmentation(
        size, flip, BoxConvention(inclusive), window=window, vertical_flip=vertical_flip
    )
    result = augment(bright_triangle(as_runs), augmentation)
    assert tuple(result.pixels.shape) == (*window.size, 3)
    bright = result.pixels[..., 0].numpy() > 127
    if len(result.targets) == 0:
        # At most a thin rest, whose interpolated pixels may be bright.
        assert bright.sum() <= 2 * scale * max(window.size)
        return
    mask = mask_on_image(result.targets.masks, window.size)
    # Along the outline, 2 to 3 pixels may differ.
    assert (bright ^ mask).sum() <= 3 * scale * (sum(window.size))
    if bright.sum() > 60 * scale**2:
        box = result.targets.boxes[0].numpy()
        assert np.abs(box - seen_box(bright)).max() <= 3 * scale


def test_the_box_of_a_cut_object_is_that_of_its_visible_part():
    # A triangle 40 wide whose right half is cut: its lowest point goes with it.
    polygon = torch.tensor([[0.0, 0.0], [40.0, 0.0], [40.0, 40.0]])
    masks = PolygonMasks(polygon, torch.tensor([0, 3]), torch.tensor([0, 1]))
    targets = Targets(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([1]), masks)
    sample = TrainingSample(torch.zeros(40, 60, 3, dtype=torch.uint8), targets, SIZE)
    window = Window(0, 0, ImageSize(40, 20))
    result = augment(sample, Augmentation(SIZE, False, window=window)).targets
    assert result.boxes.tolist() == [[0, 0, 20, 20]]
    without_mask = augment(
        TrainingSample(sample.pixels, Targets(targets.boxes, targets.labels), SIZE),
        Augmentation(SIZE, False, window=window),
    ).targets
    assert without_mask.boxes.tolist() == [[0, 0, 20, 40]]


def three_objects(kind):
    """Return objects at x 0 to 10, 20 to 30 and 40 to 50, with masks of a kind."""
    boxes = torch.tensor([[0.0, 5, 10, 15], [20, 5, 30, 15], [40, 5, 50, 15]])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    offsets = torch.arange(4)
    polygons = PolygonMasks(corners, 4 * offsets, offsets)
    bitmaps = torch.zeros(3, *SIZE, dtype=torch.uint8)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.int().tolist(), strict=True):
        bitmap[y1:y2, x1:x2] = 1
    runs = encode_bitmaps(BitmapMasks(bitmaps))
    masks = {"polygons": polygons, "runs": runs, "mixed": MixedMasks(polygons, runs)}[kind]
    keypoints = torch.tensor([[5.0, 10, 2], [25, 10, 1], [45, 10, 2]])[:, None]
    targets = Targets(boxes, torch.tensor([1, 2, 3]), masks, keypoints, image_id=8)
    return TrainingSample(torch.zeros(*SIZE, 3, dtype=torch.uint8), targets, SIZE)


@pytest.mark.parametrize("kind", ["polygons", "runs", "mixed"])
def test_objects_outside_the_window_are_left_out_with_all_they_have(kind):
    window = Window(15, 0, ImageSize(40, 30))
    result = augment(three_objects(kind), Augmentation(SIZE, False, window=window)).targets
    assert result.labels.tolist() == [2, 3]
    assert result.boxes.tolist() == [[5, 5, 15, 15], [25, 5, 30, 15]]
    assert result.keypoints.tolist() == [[[10, 10, 1]], [[30, 10, 2]]]
    assert len(result.masks) == 2 and result.image_id == 8
    whole = np.zeros(window.size, dtype=bool)
    whole[5:15, 5:15] = True
    assert np.array_equal(mask_on_image(result.masks, window.size), whole)


def test_keypoints_outside_the_window_become_unlabeled():
    keypoints = torch.tensor([[[10.0, 10.0, 2.0], [50.0, 10.0, 2.0]]])
    window = Window(0, 0, ImageSize(40, 30))
    result = augment(sample_with(keypoints), Augmentation(SIZE, False, window=window)).targets
    assert result.keypoints.tolist() == [[[10, 10, 2], [0, 0, 0]]]


def test_a_window_without_objects_gives_an_image_without_objects():
    window = Window(52, 30, ImageSize(8, 8))
    result = augment(three_objects("mixed"), Augmentation(SIZE, True, window=window)).targets
    assert len(result) == len(result.masks) == len(result.keypoints) == 0


def test_a_vertical_flip_mirrors_top_and_bottom():
    upside_down = Augmentation(SIZE, False, vertical_flip=True)
    once = augment(three_objects("runs"), upside_down, keypoint_flip=(0,))
    assert once.targets.boxes[0].tolist() == [0, 25, 10, 35]
    assert once.targets.keypoints[0].tolist() == [[5, 30, 2]]
    pixels = bright_triangle(False).pixels
    flipped = augment(bright_triangle(False), upside_down)
    assert flipped.pixels.equal(pixels.flip(0))


@given(
    st.lists(st.tuples(st.floats(-50, 90), st.floats(-50, 70)), min_size=3, max_size=9),
)
@settings(deadline=None)
def test_a_clipped_polygon_lies_inside_the_image_and_in_the_old_bounds(points):
    polygon = np.array(points)
    clipped = clip_polygon(polygon, ImageSize(20, 40))
    if len(clipped):
        assert (clipped >= 0).all() and (clipped <= [40, 20]).all()
        assert (clipped >= polygon.min(0) - 1e-9).all()
        assert (clipped <= polygon.max(0) + 1e-9).all()
    if ((polygon >= 0) & (polygon <= [40, 20])).all():
        assert np.array_equal(clipped, polygon)


def draw(original, numbers, **changes):
    values = {"short_sides": (64,), "long_side": 128, "flip_probability": 0.0} | changes
    fractions = np.array([[*numbers, *[0.0] * (DRAWS - len(numbers))]])
    [drawn] = draw_augmentations([original], fractions, AugmentationRanges(**values))
    return drawn


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
@settings(deadline=None)
def test_scale_jitter_stays_within_its_scales_and_its_window(numbers):
    jitter = ScaleJitterConfig(side=100, min_scale=0.5, max_scale=2.0)
    drawn = draw(ImageSize(300, 600), numbers, scale_jitter=jitter)
    assert 50 <= drawn.size.width <= 200
    assert drawn.size.height == pytest.approx(drawn.size.width / 2, abs=1)
    assert max(drawn.output_size) <= 100
    if drawn.window is None:
        assert drawn.output_size == drawn.size
    else:
        left, top, (height, width) = drawn.window
        assert 0 <= left <= drawn.size.width - width
        assert 0 <= top <= drawn.size.height - height


def test_colors_are_drawn_within_their_ranges_and_change_the_pixels():
    jitter = ColorJitterConfig(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    lowest = draw(SIZE, [0.0] * 9, color_jitter=jitter).color
    assert lowest == pytest.approx((0.6, 0.0, 0.8, -0.1))
    highest = draw(SIZE, [1.0 - 1e-12] * 9, color_jitter=jitter).color
    assert highest == pytest.approx((1.4, 2.5, 1.2, 0.1))
    assert draw(SIZE, [0.3] * 9).color is None
    pixels = torch.full((*SIZE, 3), 100, dtype=torch.uint8)
    sample = TrainingSample(pixels, Targets(torch.zeros(0, 4), torch.zeros(0).long()), SIZE)
    brighter = Augmentation(SIZE, False, color=ColorFactors(brightness=1.5))
    assert (augment(sample, brighter).pixels == 150).all()
    unchanged = Augmentation(SIZE, False, color=ColorFactors())
    assert augment(sample, unchanged).pixels.equal(pixels)
    assert (sample.pixels == 100).all()


@pytest.mark.parametrize("size", [ImageSize(20, 30), ImageSize(80, 120)])
def test_colors_change_alike_before_and_after_resizing(size):
    """They are changed in the smaller image."""
    pixels = np.random.default_rng(0).integers(60, 180, (*SIZE, 3), dtype=np.uint8)
    smooth = torch.from_numpy(pixels).float().cumsum(0).cumsum(1)
    smooth = (60 + 120 * smooth / smooth.amax()).byte()
    factors = ColorFactors(1.2, 1.1, 0.8, 0.05)
    augmented = augment_pixels(smooth, Augmentation(size, False, color=factors))
    expected = change_colors(resize_image(smooth, size), factors)
    assert (augmented.int() - expected.int()).abs().max() <= 3
    assert (augmented.int() - resize_image(smooth, size).int()).abs().max() > 20
