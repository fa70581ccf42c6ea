"""Mask runs against bitmaps and pycocotools, for random masks of many forms."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from model.structures import MaskRuns
from model.structures.mask_runs import join_mask_runs
from ops_cuda import compress_rle

BITMAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, 1),
)
EXAMPLES = settings(max_examples=60, deadline=None)  # a busy machine is slow, not wrong


def run_lengths(bitmap):
    flat = bitmap.T.flatten()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    return np.diff([0, *edges, len(flat)])


def runs_of(bitmaps):
    counts = [run_lengths(bitmap) for bitmap in bitmaps]
    offsets = np.cumsum([0, *map(len, counts)])
    return MaskRuns.from_run_lengths(
        torch.from_numpy(np.concatenate(counts)), torch.from_numpy(offsets), bitmaps.shape[1]
    )


def bitmaps_of(runs, height, width):
    bitmaps = np.zeros((len(runs), height, width), np.uint8)
    for n, bitmap in enumerate(bitmaps):
        part, (x, y) = runs.bitmap(n)
        bitmap[y : y + part.shape[0], x : x + part.shape[1]] = part.numpy()
    return bitmaps


@EXAMPLES
@given(BITMAPS)
def test_runs_hold_the_pixels_and_the_areas_of_masks(bitmaps):
    runs = runs_of(bitmaps)
    assert np.array_equal(bitmaps_of(runs, *bitmaps.shape[1:]), bitmaps)
    assert runs.areas().tolist() == bitmaps.sum((1, 2)).tolist()
    assert (runs.tops < runs.bottoms).all()


@EXAMPLES
@given(BITMAPS)
def test_extents_are_the_outermost_pixels_of_masks(bitmaps):
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, runs_of(bitmaps).extents().tolist(), strict=True):
        rows, columns = np.nonzero(bitmap)
        if len(rows):
            assert (x1, y1) == (columns.min(), rows.min())
            assert (x2, y2) == (columns.max() + 1, rows.max() + 1)
        else:
            assert x1 > x2 == 0 and y1 > y2 == 0


@EXAMPLES
@given(BITMAPS)
def test_run_lengths_are_those_of_pycocotools(bitmaps):
    _, height, width = bitmaps.shape
    characters, offsets = compress_rle(*runs_of(bitmaps).run_lengths(height, width))
    text = characters.numpy().tobytes()
    encoded = coco_mask.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0)))
    starts = offsets.tolist()
    assert [text[a:b] for a, b in itertools.pairwise(starts)] == [
        each["counts"] for each in encoded
    ]


@EXAMPLES
@given(BITMAPS, st.data())
def test_a_union_has_the_pixels_of_all_its_masks(bitmaps, data):
    count, height, width = bitmaps.shape
    groups = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    united = runs_of(bitmaps).union(torch.tensor(groups), 4)
    expected = np.zeros((4, height, width), np.uint8)
    np.maximum.at(expected, groups, bitmaps)
    assert np.array_equal(bitmaps_of(united, height, width), expected)
    # In the same form as masks that were never united: sorted, and none touches the next.
    again = runs_of(expected)
    for field in ("columns", "tops", "bottoms", "offsets"):
        assert getattr(united, field).equal(getattr(again, field))


@EXAMPLES
@given(BITMAPS, st.data())
def test_each_mask_is_clipped_to_its_own_window(bitmaps, data):
    count, height, width = bitmaps.shape
    corner = st.tuples(*[st.integers(-2, 11)] * 4)
    windows = data.draw(st.lists(corner, min_size=count, max_size=count))
    clipped = runs_of(bitmaps).clipped(torch.tensor(windows))
    expected = np.zeros_like(bitmaps)
    for n, window in enumerate(windows):
        x1, y1, x2, y2 = (max(0, side) for side in window)
        expected[n, y1:y2, x1:x2] = bitmaps[n, y1:y2, x1:x2]
    assert np.array_equal(bitmaps_of(clipped, height, width), expected)


@EXAMPLES
@given(BITMAPS, BITMAPS, st.data())
def test_masks_are_selected_joined_and_moved(first, second, data):
    both = join_mask_runs([runs_of(first), runs_of(second)])
    canvas = np.zeros((len(first) + len(second), 20, 20), np.uint8)
    canvas[: len(first), 3 : 3 + first.shape[1], 5 : 5 + first.shape[2]] = first
    canvas[len(first) :, 3 : 3 + second.shape[1], 5 : 5 + second.shape[2]] = second
    index = data.draw(st.lists(st.integers(0, len(canvas) - 1)))
    moved = both.shifted(5, 3)[torch.tensor(index, dtype=torch.int64)]
    assert np.array_equal(bitmaps_of(moved, 20, 20), canvas[index])
    chosen = torch.arange(len(canvas)) % 2 == 0
    assert np.array_equal(bitmaps_of(both.shifted(5, 3)[chosen], 20, 20), canvas[::2])


def test_an_image_too_large_for_cocos_run_lengths_is_refused():
    with pytest.raises(ValueError, match=r"below 2\*\*32"):
        runs_of(np.ones((1, 2, 2), np.uint8)).run_lengths(2**16, 2**16)
