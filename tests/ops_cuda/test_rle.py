import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

import ops_cuda
from ops_cuda.paste_masks import paste_masks_reference
from ops_cuda.rle import compress_rle_reference, encode_roi_masks_rle_reference
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import random_boxes

ROOT = Path(__file__).resolve().parents[2]
IMPLEMENTATIONS = both_implementations(
    compress_rle_reference, encode_roi_masks_rle_reference, paste_masks_reference
)
NAN, INFINITY = float("nan"), float("inf")


def random_masks(count, side=28, seed=6):
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed))


def split(flat, offsets):
    return [flat[start:end].tolist() for start, end in itertools.pairwise(offsets)]


def encode_texts(ops, *arguments):
    """Return the texts of the masks, encoded without bitmaps."""
    text, offsets = ops.compress_rle(*ops.encode_roi_masks_rle(*arguments))
    return [bytes(one) for one in split(text, offsets)]


def pasted_texts(ops, *arguments):
    """Return the texts that pycocotools encodes from the pasted bitmaps."""
    bitmaps = ops.paste_masks(*arguments).permute(1, 2, 0).numpy()
    return [each["counts"] for each in coco_masks.encode(np.asfortranarray(bitmaps))]


@IMPLEMENTATIONS
def test_runs_of_a_one_pixel_mask_computed_by_hand(ops):
    # Padded to 3 x 3 and resized to columns -1..5 and rows 0..3, the weights are
    # 0, .14, .57, 1, .57, .14, 0 and 0, .625, .625, 0: two products are above a half.
    arguments = (torch.ones(1, 1, 1), torch.tensor([[1.0, 1.0, 3.0, 2.0]]), 4, 5, 0.5)
    counts, offsets = ops.encode_roi_masks_rle(*arguments)
    assert (counts.tolist(), offsets.tolist()) == ([9, 2, 9], [0, 3])
    assert (counts.dtype, offsets.dtype) == (torch.int64, torch.int64)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([9, 2, 9], b"929"),
        ([15, 16], b"?`0"),  # a fifth bit that is set would be the sign
        ([5, 7, 9, 3], b"579L"),  # 3 is stored as -4, the difference to 7
        ([0, 1000], b"0Xo0"),  # 1000 = 8 + 32 * 31, and 31 needs a second 0 to be positive
        ([], b""),
    ],
)
def test_texts_computed_by_hand(ops, counts, text):
    actual, offsets = ops.compress_rle(torch.tensor(counts).long(), torch.tensor([0, len(counts)]))
    assert bytes(actual.tolist()) == text
    assert (actual.dtype, offsets.tolist()) == (torch.uint8, [0, len(text)])


# Longer runs need six or more characters, which overflow pycocotools' buffer.
LONGEST_RUN = 2**23


@IMPLEMENTATIONS
@given(
    st.lists(
        st.lists(st.integers(0, 40) | st.integers(0, LONGEST_RUN), min_size=1, max_size=30),
        max_size=5,
    )
)
def test_texts_of_any_runs_equal_those_of_pycocotools(ops, lists):
    expected = [
        coco_masks.frPyObjects({"counts": runs, "size": [1, sum(runs)]}, 1, sum(runs))["counts"]
        for runs in lists
    ]
    counts = torch.tensor([run for runs in lists for run in runs], dtype=torch.int64)
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    text, text_offsets = ops.compress_rle(counts, offsets)
    assert [bytes(one) for one in split(text, text_offsets)] == expected


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=30))
def test_the_reference_agrees_for_any_runs(runs):
    arguments = torch.tensor(runs), torch.tensor([0, len(runs)])
    actual, expected = ops_cuda.compress_rle(*arguments), compress_rle_reference(*arguments)
    assert all(map(torch.equal, actual, expected))


@IMPLEMENTATIONS
@pytest.mark.parametrize("side", [1, 2, 14, 28])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("grid", [False, True], ids=["whole_pixels", "grid"])
def test_texts_equal_those_of_the_pasted_bitmaps_in_pycocotools(ops, side, threshold, grid):
    masks, boxes = random_masks(40, side), random_boxes(40, extent=150, largest=120) - 25
    masks[0], masks[1], masks[2] = 1, 0, threshold
    boxes[:3] = torch.tensor([-100.0, -100, 300, 300])  # the whole image
    boxes[3], boxes[4], boxes[5] = NAN, torch.tensor([5.0, 5, INFINITY, 9]), boxes[5, [2, 3, 0, 1]]
    boxes[6, 2:] = boxes[6, :2]  # no area
    arguments = (masks, boxes, 110, 140, threshold, grid)
    assert encode_texts(ops, *arguments) == pasted_texts(ops, *arguments)


CORNERS = st.floats(-60, 60, width=32) | st.sampled_from(
    [0.0, 1e9, -1e9, 9.9e11, -9.9e11, 3e38, -3e38, NAN, INFINITY, -INFINITY]
)
VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0, -1.0, 3e38, NAN, INFINITY, -INFINITY])


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(1, 5), st.integers(1, 40), st.integers(1, 80))
def test_runs_of_any_values_are_those_of_the_pasted_bitmap(data, side, height, width):
    count = data.draw(st.integers(0, 3))
    boxes = data.draw(st.lists(CORNERS, min_size=4 * count, max_size=4 * count))
    cells = count * side * side
    values = data.draw(st.lists(VALUES, min_size=cells, max_size=cells))
    threshold = data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    arguments = (
        torch.tensor(values).view(count, side, side),
        torch.tensor(boxes).view(count, 4),
        height,
        width,
        threshold,
        data.draw(st.booleans()),
    )
    texts = encode_texts(ops_cuda, *arguments)
    assert texts == pasted_texts(ops_cuda, *arguments)
    bitmaps = ops_cuda.paste_masks(*arguments).numpy()
    for text, bitmap in zip(texts, bitmaps, strict=True):
        assert (coco_masks.decode({"size": [height, width], "counts": text}) == bitmap).all()
    counts, offsets = ops_cuda.encode_roi_masks_rle(*arguments)
    expected = compress_rle_reference(counts, offsets)
    assert all(map(torch.equal, ops_cuda.compress_rle(counts, offsets), expected))


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 128, 200])
def test_boxes_of_any_width_are_encoded_completely(columns):
    box = torch.tensor([[3.0, 2.0, 3.0 + columns, 40.0]])
    arguments = (random_masks(1), box, 50, 260, 0.5)
    assert encode_texts(ops_cuda, *arguments) == pasted_texts(ops_cuda, *arguments)


def test_runs_continue_from_the_bottom_of_a_column_to_the_top_of_the_next():
    everywhere = torch.tensor([[-20.0, -20.0, 50.0, 50.0]])
    counts, _ = ops_cuda.encode_roi_masks_rle(torch.ones(1, 7, 7), everywhere, 10, 12, 0.5)
    assert counts.tolist() == [0, 120]
    left_half = torch.tensor([[-40.0, -20.0, 5.0, 50.0]])
    counts, _ = ops_cuda.encode_roi_masks_rle(torch.ones(1, 7, 7), left_half, 10, 12, 0.5)
    assert counts.tolist() == [0, 60, 60]  # columns 0 to 5


@IMPLEMENTATIONS
def test_no_masks_have_no_runs(ops):
    counts, offsets = ops.encode_roi_masks_rle(torch.empty(0, 28, 28), torch.empty(0, 4), 9, 9, 0.5)
    assert (counts.tolist(), offsets.tolist()) == ([], [0])
    text, offsets = ops.compress_rle(counts, offsets)
    assert (text.tolist(), offsets.tolist()) == ([], [0])


def test_input_strides_and_types_do_not_matter():
    masks, boxes = random_masks(10).half(), random_boxes(10).half()
    expected = ops_cuda.encode_roi_masks_rle(masks.float(), boxes.float(), 90, 90, 0.5)
    strided = masks.transpose(1, 2).contiguous().transpose(1, 2)
    actual = ops_cuda.encode_roi_masks_rle(
        strided, torch.cat([boxes, boxes], 1)[:, :4], 90, 90, 0.5
    )
    assert all(map(torch.equal, actual, expected))
    every_second = torch.stack([actual[0], actual[0]], 1)[:, 0]
    texts = ops_cuda.compress_rle(every_second, actual[1]), ops_cuda.compress_rle(*expected)
    assert all(map(torch.equal, *texts))


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    masks, boxes = random_masks(50), random_boxes(50, largest=90)
    one, two = two_thread_counts(lambda: ops_cuda.encode_roi_masks_rle(masks, boxes, 90, 120, 0.5))
    assert all(map(torch.equal, one, two))


def test_encoding_on_a_huge_image_allocates_no_bitmap():
    # a bitmap of it would take 400 MB
    program = """
import resource, torch, ops_cuda
box = torch.tensor([[-100.0, -100.0, 20_100.0, 20_100.0]])
ops_cuda.compress_rle(*ops_cuda.encode_roi_masks_rle(torch.rand(1, 28, 28), box, 9, 9, 0.5))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
runs = ops_cuda.encode_roi_masks_rle(torch.rand(1, 28, 28), box, 20_000, 20_000, 0.5)
assert len(runs[0]) > 100_000 and runs[0].sum() == 20_000**2
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(finished.stdout) < 60  # MB


@pytest.mark.parametrize(
    ("masks", "boxes", "height", "message"),
    [
        (torch.zeros(2, 28, 27), torch.zeros(2, 4), 10, r"masks must be \(R, M, M\)"),
        (torch.zeros(2, 28, 28).byte(), torch.zeros(2, 4), 10, "masks must be floating point"),
        (torch.zeros(2, 28, 28), torch.zeros(3, 4), 10, "lengths disagree"),
        (torch.zeros(2, 28, 28), torch.zeros(2, 4), 0, "height must be positive"),
        (torch.zeros(2, 28, 28), torch.zeros(2, 4), 2**30, r"must be below 2\*\*32"),
    ],
)
def test_invalid_masks_are_named(masks, boxes, height, message):
    with pytest.raises(ValueError, match=message):
        ops_cuda.encode_roi_masks_rle(masks, boxes, height, 20, 0.5)


def test_invalid_runs_are_named():
    runs = torch.tensor([3, 4, 5])
    with pytest.raises(ValueError, match=r"counts must be \(N,\) int64"):
        ops_cuda.compress_rle(runs.int(), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"offsets must be \(R \+ 1,\)"):
        ops_cuda.compress_rle(runs, torch.tensor([]).long())
    for offsets in ([0, 4], [-1, 3], [0, 2], [0, 2, 1, 3]):
        with pytest.raises(RuntimeError, match="offsets must ascend from 0"):
            ops_cuda.compress_rle(runs, torch.tensor(offsets))
