"""Pasted and covered objects keep exactly the pixels that show them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.preprocess import write_padded
from model.structures import ImageSize, PolygonMasks, Targets
from pipeline.stream.augmentation.apply import augment
from pipeline.stream.augmentation.copy_paste import GRAY, paste_pixels, paste_targets
from pipeline.stream.augmentation.parameters import Augmentation, Window
from tests.pipeline.stream.scenes import (
    bitmaps_of,
    bounds,
    color_of,
    has_mask,
    scene_of,
    scenes,
)

OTHER = 100
"""First label of the objects that are pasted."""

NOWHERE = -1
"""Label of the pixels that belong to neither image."""


def paste(on, above, limits=None):
    """Return the pixels and the composition of all objects of one sample pasted on another."""
    composition = paste_targets(
        on.targets, on.original_size, above.targets, limits or above.original_size
    )
    height, width = composition.size
    canvas = torch.zeros(height + 2, width + 3, 3, dtype=torch.uint8)
    write_padded(canvas, on.pixels)
    paste_pixels(canvas, on.original_size, above.pixels, composition.cover)
    assert not canvas[height:].any() and not canvas[:, width:].any()
    return canvas[:height, :width], composition


def ids_after(below, above, limits, size):
    """Return the map of labels of a composition, pixel by pixel, and which were pasted."""
    ids = np.full(size, NOWHERE)
    ids[: below.ids.shape[0], : below.ids.shape[1]] = below.ids
    window = above.ids[: limits.height, : limits.width]
    with_mask = above.sample.targets.labels[has_mask(above.sample.targets)]
    rows, columns = np.nonzero(np.isin(window, with_mask))
    ids[rows, columns] = window[rows, columns]
    return ids


def still_visible(targets, ids):
    """Return which of the objects of an image are visible in a map of labels.

    Of an object without a mask, everything in its box is.
    """
    labels = []
    for label, box, exact in zip(
        targets.labels.tolist(), targets.boxes.int().tolist(), has_mask(targets), strict=True
    ):
        inside = ids[box[1] : box[3], box[0] : box[2]]
        if (inside == label).any() if exact else (inside < OTHER).any():
            labels.append(label)
    return labels


@given(scenes(), scenes(first_label=OTHER), st.booleans())
@settings(deadline=None, max_examples=100)
def test_masks_boxes_and_keypoints_are_those_of_the_pixels_that_remain(below, above, grows):
    size, limits = below.sample.original_size, above.sample.original_size
    if not grows:
        limits = ImageSize(min(size.height, limits.height), min(size.width, limits.width))
    pixels, composition = paste(below.sample, above.sample, limits)
    ids = ids_after(below, above, limits, composition.size)
    colors = np.where((ids == NOWHERE)[..., None], GRAY, color_of(ids))
    assert np.array_equal(pixels.numpy(), colors)
    assert np.array_equal(composition.cover, ids >= OTHER)
    assert max(size.height, limits.height) >= composition.size.height >= size.height
    targets = composition.targets
    expected = [*still_visible(below.sample.targets, ids), *np.unique(ids[ids >= OTHER]).tolist()]
    assert sorted(targets.labels.tolist()) == sorted(expected)
    masks = bitmaps_of(targets, composition.size)
    assert masks.sum(axis=0).max(initial=0) <= 1
    for index in np.flatnonzero(has_mask(targets)).tolist():
        label, box = int(targets.labels[index]), targets.boxes[index].tolist()
        assert np.array_equal(masks[index], ids == label)
        assert box == bounds(masks[index])
        x, y, visibility = targets.keypoints[index, 0].tolist()
        if visibility:
            assert (visibility == 2) == (ids[int(y), int(x)] == label)


@st.composite
def augmentations(draw, size):
    """Draw a scale, a window, flips and a transpose."""
    scale = draw(st.sampled_from([0.5, 1.0, 1.7, 3.0]))
    new = ImageSize(*(max(1, round(side * scale)) for side in size))
    window = None
    if draw(st.booleans()):
        height, width = draw(st.integers(1, new.height)), draw(st.integers(1, new.width))
        left = draw(st.integers(0, new.width - width))
        top = draw(st.integers(0, new.height - height))
        window = Window(left, top, ImageSize(height, width))
    flip, vertical_flip, transpose = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Augmentation(new, flip, window=window, vertical_flip=vertical_flip, transpose=transpose)


@given(scenes(), scenes(first_label=OTHER), st.data())
@settings(deadline=None, max_examples=60)
def test_masks_of_augmented_images_never_overlap_what_is_pasted(below, above, data):
    """Masks of resized images are approximate, but pasted and covered ones are exact."""
    samples = []
    for scene in (below, above):
        how = data.draw(augmentations(scene.sample.original_size))
        sample = augment(scene.sample, how, keypoint_flip=(0,))
        samples.append(replace(sample, original_size=how.output_size))
    pixels, composition = paste(*samples)
    targets = composition.targets
    assert pixels.shape[:2] == composition.size
    masks, is_pasted = bitmaps_of(targets, composition.size), targets.labels.numpy() >= OTHER
    assert not (masks[~is_pasted] & composition.cover).any()
    # Masks end where the image ended before it grew, although windows do not cut them.
    size = samples[0].original_size
    assert not masks[~is_pasted, size.height :].any()
    assert not masks[~is_pasted, :, size.width :].any()
    assert np.array_equal(masks[is_pasted].any(axis=0), composition.cover)
    source = samples[1].pixels.numpy()
    height, width = (min(sides) for sides in zip(source.shape, composition.size, strict=False))
    cover = composition.cover[:height, :width]
    assert cover.sum() == composition.cover.sum()
    assert np.array_equal(pixels.numpy()[:height, :width][cover], source[:height, :width][cover])
    for index in np.flatnonzero(is_pasted).tolist():
        assert targets.boxes[index].tolist() == bounds(masks[index])


def square(label, x1, y1, x2, y2, kind="polygons", size=(20, 30)):
    """Return a scene of one rectangle."""
    ids = np.zeros(size, dtype=int)
    ids[y1:y2, x1:x2] = label
    return scene_of(ids, {label: kind})


@pytest.mark.parametrize("kind", ["polygons", "runs", "none"])
def test_a_wholly_covered_object_is_left_out_and_others_lose_what_is_covered(kind):
    below = square(1, 2, 2, 10, 10, kind).sample
    _, composition = paste(below, square(OTHER, 1, 1, 10, 10).sample)
    assert composition.targets.labels.tolist() == [OTHER]
    _, composition = paste(below, square(OTHER, 6, 0, 30, 20).sample)
    assert composition.targets.labels.tolist() == [1, OTHER]
    assert composition.targets.boxes.tolist() == [[2, 2, 6, 10], [6, 0, 30, 20]]
    assert has_mask(composition.targets).tolist() == [kind != "none", True]


def test_objects_that_are_not_covered_are_left_as_they_are():
    below = square(1, 2, 2, 10, 10).sample
    targets = replace(below.targets, boxes=torch.tensor([[1.8, 2.2, 10.1, 9.7]]))
    _, composition = paste(replace(below, targets=targets), square(OTHER, 15, 2, 20, 10).sample)
    assert torch.equal(composition.targets.boxes[0], targets.boxes[0])
    polygons = composition.targets.masks.polygons
    assert polygons.object_offsets.tolist() == [0, 1, 1]
    assert torch.equal(polygons.vertices, targets.masks.polygons.vertices)


def test_covered_keypoints_become_hidden_ones():
    below = square(1, 2, 2, 10, 10).sample
    points = torch.tensor([[[3.5, 3.5, 2.0], [8.5, 8.5, 2], [9.5, 3.5, 1], [0, 0, 0]]])
    below = replace(below, targets=replace(below.targets, keypoints=points))
    above = square(OTHER, 6, 0, 30, 20).sample
    above = replace(above, targets=replace(above.targets, keypoints=points + 10.0))
    _, composition = paste(below, above)
    assert composition.targets.keypoints[0, :, 2].tolist() == [2, 1, 1, 0]
    assert torch.equal(composition.targets.keypoints[1], points[0] + 10.0)


def test_an_image_grows_only_as_far_as_pasted_objects_reach():
    below = square(1, 2, 2, 5, 5, size=(6, 6)).sample
    pixels, composition = paste(below, square(OTHER, 4, 4, 9, 8).sample)
    assert composition.size == pixels.shape[:2] == (8, 9)
    assert (pixels[6:, :4] == GRAY).all() and (pixels[:4, 6:] == GRAY).all()
    assert torch.equal(pixels[:4, :4], below.pixels[:4, :4])
    _, composition = paste(below, square(OTHER, 0, 0, 3, 3).sample)
    assert composition.size == (6, 6)


@pytest.mark.parametrize("kind", ["polygons", "runs"])
def test_a_mask_that_a_window_cuts_ends_there_when_the_image_grows(kind):
    whole = square(1, 2, 2, 12, 12, kind).sample
    size = ImageSize(8, 6)
    window = Window(0, 0, size)
    cut = augment(whole, Augmentation(whole.original_size, False, window=window))
    cut = replace(cut, original_size=size)
    _, composition = paste(cut, square(OTHER, 9, 9, 11, 11).sample)
    assert composition.size == (11, 11)
    expected = np.zeros((11, 11), dtype=bool)
    expected[2:8, 2:6] = True
    assert np.array_equal(bitmaps_of(composition.targets, composition.size)[0], expected)
    assert composition.targets.boxes[0].tolist() == [2, 2, 6, 8]


def test_images_without_objects_and_without_keypoints_can_be_pasted_and_pasted_on():
    empty = scene_of(np.zeros((20, 30), dtype=int), {}).sample
    one = square(OTHER, 4, 4, 9, 8).sample
    for below, above, labels in ((empty, empty, []), (one, empty, [OTHER]), (empty, one, [OTHER])):
        pixels, composition = paste(below, above)
        assert composition.targets.labels.tolist() == labels
        assert len(composition.targets.masks) == len(composition.targets.keypoints) == len(labels)
        assert torch.equal(pixels, one.pixels if above is one else below.pixels)
    plain = replace(one, targets=replace(one.targets, keypoints=None))
    assert paste(plain, plain)[1].targets.keypoints is None


def test_a_mask_without_pixels_is_not_pasted_and_counts_as_its_box_below():
    line = PolygonMasks(
        torch.tensor([[4.0, 4], [9, 4], [6, 4]]), torch.tensor([0, 3]), torch.tensor([0, 1])
    )
    thin = Targets(torch.tensor([[4.0, 4, 9, 5]]), torch.tensor([7]), line, torch.zeros(1, 1, 3))
    below = replace(square(1, 0, 0, 1, 1).sample, targets=thin)
    _, composition = paste(below, below)
    assert composition.targets.labels.tolist() == [7] and not composition.cover.any()
    _, composition = paste(below, square(OTHER, 3, 3, 7, 7).sample)
    assert composition.targets.labels.tolist() == [7, OTHER]
    assert composition.targets.boxes[0].tolist() == [7, 4, 9, 5]
    _, composition = paste(below, square(OTHER, 3, 3, 9, 7).sample)
    assert composition.targets.labels.tolist() == [OTHER]


def test_hundreds_of_objects_are_pasted_on_hundreds():
    labels = np.kron(np.arange(15 * 20).reshape(15, 20), np.ones((2, 2), dtype=int))
    below = scene_of(labels, dict.fromkeys(range(1, 300), "runs")).sample
    above = scene_of(labels, dict.fromkeys(range(1, 300), "polygons")).sample
    _, composition = paste(below, above, ImageSize(30, 39))
    # The right column of the last objects of each row, from 19 on, remains.
    rest = list(range(19, 300, 20))
    assert composition.targets.labels.tolist() == [*rest, *range(1, 300)]
    assert composition.cover.sum() == 4 * 299 - 2 * 15
    assert (composition.targets.boxes[:15, 0] == 39).all()


def test_pasting_without_masks_is_an_error():
    below = square(1, 2, 2, 10, 10).sample
    without = replace(below, targets=replace(below.targets, masks=None))
    with pytest.raises(ValueError, match="pasting needs masks"):
        paste(below, without)
