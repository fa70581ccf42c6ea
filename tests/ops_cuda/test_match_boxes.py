import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

import ops_cuda
from ops_cuda import IGNORED, NEGATIVE, POSITIVE
from ops_cuda.match_boxes import match_boxes_reference
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import match_scene, random_boxes

IMPLEMENTATIONS = both_implementations(match_boxes_reference)
GT_BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
GT_OFFSETS = torch.tensor([0, 2])


@IMPLEMENTATIONS
def test_the_thresholds_are_inclusive(ops):
    # IoUs 1/2, 1/4 and 1/5 with the first ground-truth box.
    candidates = torch.tensor([[[0.0, 0, 10, 5], [0, 0, 5, 5], [0, 0, 5, 4]]])
    matched_gt, labels = ops.match_boxes(candidates, GT_BOXES, GT_OFFSETS, 0.5, 0.25)
    assert labels.tolist() == [[POSITIVE, IGNORED, NEGATIVE]]
    assert matched_gt.tolist() == [[0, 0, 0]]


@IMPLEMENTATIONS
def test_low_quality_matches_include_all_ties_and_need_an_overlap(ops):
    candidates = torch.tensor([[[0.0, 0, 4, 4], [6, 6, 10, 10], [0, 0, 3, 4], [50, 50, 60, 60]]])
    matched_gt, labels = ops.match_boxes(candidates, GT_BOXES, GT_OFFSETS, 0.7, 0.3, True)
    assert labels.tolist() == [[POSITIVE, POSITIVE, NEGATIVE, NEGATIVE]]
    assert matched_gt.tolist() == [[0, 0, 0, 0]]


@IMPLEMENTATIONS
def test_a_low_quality_match_keeps_the_index_of_its_own_highest_iou(ops):
    # The best candidate of the second ground-truth box overlaps the first one more.
    gt_boxes = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
    candidates = torch.tensor([[[0.0, 0, 11, 10]]])
    matched_gt, labels = ops.match_boxes(candidates, gt_boxes, GT_OFFSETS, 0.95, 0.3, True)
    assert (matched_gt.item(), labels.item()) == (0, POSITIVE)


@IMPLEMENTATIONS
def test_the_first_of_equal_gt_boxes_is_matched(ops):
    matched_gt, _ = ops.match_boxes(
        GT_BOXES[None], GT_BOXES[[1, 0, 0, 1]], torch.tensor([0, 4]), 0.5, 0.5
    )
    assert matched_gt.tolist() == [[1, 0]]


@IMPLEMENTATIONS
def test_without_gt_boxes_everything_is_negative_for_any_thresholds(ops):
    matched_gt, labels = ops.match_boxes(
        random_boxes(70)[None], GT_BOXES[:0], torch.tensor([0, 0, 0]), 0.0, 0.0, True
    )
    assert matched_gt.eq(0).all()
    assert labels.eq(NEGATIVE).all()
    assert labels.shape == (2, 70)


@IMPLEMENTATIONS
def test_nan_and_infinite_boxes_do_not_overlap(ops):
    nan, infinity = float("nan"), float("inf")
    degenerate = [[nan, 0, 10, 10], [0, 0, infinity, 10], [5, 5, 5, 5], [10, 10, 0, 0], [nan] * 4]
    candidates = torch.tensor([[*degenerate, [0, 0, 10, 10]]], dtype=torch.float32)
    gt_boxes = torch.tensor([*degenerate, [0, 0, 10, 10]], dtype=torch.float32)
    matched_gt, labels = ops.match_boxes(candidates, gt_boxes, torch.tensor([0, 6]), 0.5, 0.3, True)
    assert labels.tolist() == [[NEGATIVE] * 5 + [POSITIVE]]
    assert matched_gt.tolist() == [[0] * 5 + [5]]


@pytest.mark.parametrize("allow_low_quality", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_matches_equal_those_of_torchvision(seed, allow_low_quality):
    candidates = random_boxes(700, seed=seed).round()
    gt_boxes = random_boxes(12, seed=seed + 100).round()
    iou = box_iou(gt_boxes, candidates)
    matches = Matcher(0.6, 0.3, allow_low_quality_matches=allow_low_quality)(iou)
    matched_gt, labels = ops_cuda.match_boxes(
        candidates[None], gt_boxes, torch.tensor([0, 12]), 0.6, 0.3, allow_low_quality
    )
    assert matched_gt[0].equal(iou.max(dim=0).indices)
    assert (labels[0] == POSITIVE).equal(matches >= 0)
    assert (labels[0] == NEGATIVE).equal(matches == Matcher.BELOW_LOW_THRESHOLD)


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(0, 200),
    gt_count=st.integers(0, 90),
    split=st.floats(0, 1),
    seed=st.integers(0, 2**16),
    rounded=st.booleans(),
    allow_low_quality=st.booleans(),
    shared=st.booleans(),
    iou=st.sampled_from([(0.5, 0.5), (0.7, 0.3), (0.0, 0.0), (1.0, 0.2)]),
)
def test_the_reference_agrees_for_any_boxes(
    count, gt_count, split, seed, rounded, allow_low_quality, shared, iou
):
    candidates = random_boxes(2 * count, seed=seed).reshape(2, count, 4)[: 1 if shared else 2]
    gt_boxes = random_boxes(gt_count, seed=seed + 1)
    if rounded:  # many ties
        candidates, gt_boxes = candidates.round(), gt_boxes.round()
    offsets = torch.tensor([0, int(split * gt_count), gt_count])
    arguments = (candidates, gt_boxes, offsets, *iou, allow_low_quality)
    for one, other in zip(
        ops_cuda.match_boxes(*arguments), match_boxes_reference(*arguments), strict=True
    ):
        assert one.equal(other)


@pytest.mark.parametrize("shared", [True, False])
def test_the_reference_agrees_for_degenerate_boxes_and_uneven_images(shared):
    arguments = (*match_scene(1000, shared), 0.5, 0.3, True)
    expected = match_boxes_reference(*arguments)
    for one, other in zip(ops_cuda.match_boxes(*arguments), expected, strict=True):
        assert one.equal(other)


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    candidates, gt_boxes = random_boxes(60_000)[None].round(), random_boxes(40, seed=1).round()
    arguments = (candidates, gt_boxes, torch.tensor([0, 40]), 0.5, 0.3, True)
    one, two = two_thread_counts(lambda: torch.stack(ops_cuda.match_boxes(*arguments)))
    assert one.equal(two)


def test_strides_and_half_types_do_not_matter():
    candidates, gt_boxes, offsets = match_scene(100)
    wide = torch.cat([candidates, candidates], 2)[..., 4:]
    expected = ops_cuda.match_boxes(candidates, gt_boxes, offsets, 0.5, 0.3)
    actual = ops_cuda.match_boxes(wide, gt_boxes.t().contiguous().t(), offsets, 0.5, 0.3)
    assert all(one.equal(other) for one, other in zip(actual, expected, strict=True))
    for dtype in (torch.float16, torch.bfloat16):
        halves = candidates.to(dtype), gt_boxes.to(dtype)
        expected = ops_cuda.match_boxes(*(each.float() for each in halves), offsets, 0.5, 0.3)
        actual = ops_cuda.match_boxes(*halves, offsets, 0.5, 0.3)
        assert all(one.equal(other) for one, other in zip(actual, expected, strict=True))


def test_200_000_candidates_and_2_000_gt_boxes_need_no_matrix():
    program = """
import resource, torch, ops_cuda
from tests.ops_cuda.scenes import random_boxes
torch.set_num_threads(2)
gt_boxes, offsets = random_boxes(2000, seed=1), torch.tensor([0, 2000])
candidates = random_boxes(200_000)[None]
ops_cuda.match_boxes(candidates[:, :64], gt_boxes, offsets, 0.7, 0.3, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ops_cuda.match_boxes(candidates, gt_boxes, offsets, 0.7, 0.3, True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    # KiB: the two results hold 3,125; the matrix would hold 1,562,500.
    assert int(finished.stdout) < 20_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": torch.zeros(3, 4)}, r"candidates must be \(B or 1, N, 4\); got \(3, 4\)"),
        ({"candidates": torch.zeros(1, 3, 4).long()}, "candidates must be floating point"),
        ({"gt_boxes": torch.zeros(8)}, r"gt_boxes must be \(N, 4\).*Flattened twice"),
        ({"gt_offsets": torch.zeros(2)}, "gt_offsets must be"),
        ({"candidates": torch.zeros(3, 3, 4)}, "one more than images; got 2 for candidates of 3"),
        ({"positive_iou": 50}, r"positive_iou must be in \[0, 1\]; got 50"),
        ({"negative_iou": 0.8}, "negative_iou 0.8 is above positive_iou 0.7"),
        ({"gt_boxes": torch.zeros(2, 4, device="meta")}, "different devices"),
    ],
)
def test_invalid_arguments_are_named(changes, message):
    arguments = {
        "candidates": torch.zeros(1, 3, 4),
        "gt_boxes": GT_BOXES,
        "gt_offsets": GT_OFFSETS,
        "positive_iou": 0.7,
        "negative_iou": 0.3,
    }
    with pytest.raises(ValueError, match=message):
        ops_cuda.match_boxes(**(arguments | changes))


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3], [0, 2, 1], [0, -1, 2]])
def test_invalid_offsets_raise(offsets):
    with pytest.raises(RuntimeError, match="gt_offsets"):
        ops_cuda.match_boxes(torch.zeros(1, 3, 4), GT_BOXES, torch.tensor(offsets), 0.5, 0.5)
