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
from ops_cuda import IGNORED, NEGATIVE, POSITIVE, reference
from tests.ops_cuda.scenes import match_scene, random_boxes

IMPLEMENTATIONS = pytest.mark.parametrize("ops", [ops_cuda, reference], ids=["public", "twin"])
TRUTHS = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
ALL = torch.tensor([0, 2])


@IMPLEMENTATIONS
def test_thresholds_are_inclusive_above(ops):
    # Overlaps 1/2, 1/4 and 1/5 with the first truth.
    candidates = torch.tensor([[[0.0, 0, 10, 5], [0, 0, 5, 5], [0, 0, 5, 4]]])
    truth, verdict = ops.match_boxes(candidates, TRUTHS, ALL, 0.5, 0.25)
    assert verdict.tolist() == [[POSITIVE, IGNORED, NEGATIVE]]
    assert truth.tolist() == [[0, 0, 0]]


@IMPLEMENTATIONS
def test_each_truth_keeps_all_its_best_and_an_unreachable_one_claims_nobody(ops):
    candidates = torch.tensor([[[0.0, 0, 4, 4], [6, 6, 10, 10], [0, 0, 3, 4], [50, 50, 60, 60]]])
    truth, verdict = ops.match_boxes(candidates, TRUTHS, ALL, 0.7, 0.3, True)
    assert verdict.tolist() == [[POSITIVE, POSITIVE, NEGATIVE, NEGATIVE]]
    assert truth.tolist() == [[0, 0, 0, 0]]


@IMPLEMENTATIONS
def test_a_best_candidate_is_still_trained_towards_what_it_overlaps_most(ops):
    # The second truth's best candidate overlaps the first more.
    truths = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
    candidates = torch.tensor([[[0.0, 0, 11, 10]]])
    truth, verdict = ops.match_boxes(candidates, truths, ALL, 0.95, 0.3, True)
    assert (truth.item(), verdict.item()) == (0, POSITIVE)


@IMPLEMENTATIONS
def test_the_first_of_equal_truths_wins(ops):
    truth, _ = ops.match_boxes(TRUTHS[None], TRUTHS[[1, 0, 0, 1]], torch.tensor([0, 4]), 0.5, 0.5)
    assert truth.tolist() == [[1, 0]]


@IMPLEMENTATIONS
def test_without_truths_everything_is_negative_whatever_the_thresholds(ops):
    truth, verdict = ops.match_boxes(
        random_boxes(70)[None], TRUTHS[:0], torch.tensor([0, 0, 0]), 0.0, 0.0, True
    )
    assert truth.eq(0).all()
    assert verdict.eq(NEGATIVE).all()
    assert verdict.shape == (2, 70)


@IMPLEMENTATIONS
def test_what_is_no_number_is_no_overlap(ops):
    nan, infinity = float("nan"), float("inf")
    strange = [[nan, 0, 10, 10], [0, 0, infinity, 10], [5, 5, 5, 5], [10, 10, 0, 0], [nan] * 4]
    candidates = torch.tensor([[*strange, [0, 0, 10, 10]]], dtype=torch.float32)
    truths = torch.tensor([*strange, [0, 0, 10, 10]], dtype=torch.float32)
    truth, verdict = ops.match_boxes(candidates, truths, torch.tensor([0, 6]), 0.5, 0.3, True)
    assert verdict.tolist() == [[NEGATIVE] * 5 + [POSITIVE]]
    assert truth.tolist() == [[0] * 5 + [5]]


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_matches_are_torchvisions(seed, keep_best):
    candidates = random_boxes(700, seed=seed).round()
    truths = random_boxes(12, seed=seed + 100).round()
    overlap = box_iou(truths, candidates)
    theirs = Matcher(0.6, 0.3, allow_low_quality_matches=keep_best)(overlap)
    truth, verdict = ops_cuda.match_boxes(
        candidates[None], truths, torch.tensor([0, 12]), 0.6, 0.3, keep_best
    )
    assert truth[0].equal(overlap.max(dim=0).indices)
    assert (verdict[0] == POSITIVE).equal(theirs >= 0)
    assert (verdict[0] == NEGATIVE).equal(theirs == Matcher.BELOW_LOW_THRESHOLD)


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(0, 200),
    truths=st.integers(0, 90),
    split=st.floats(0, 1),
    seed=st.integers(0, 2**16),
    whole=st.booleans(),
    keep_best=st.booleans(),
    shared=st.booleans(),
    iou=st.sampled_from([(0.5, 0.5), (0.7, 0.3), (0.0, 0.0), (1.0, 0.2)]),
)
def test_the_kernel_is_its_twin(count, truths, split, seed, whole, keep_best, shared, iou):
    candidates = random_boxes(2 * count, seed=seed).reshape(2, count, 4)[: 1 if shared else 2]
    boxes = random_boxes(truths, seed=seed + 1)
    if whole:  # many ties
        candidates, boxes = candidates.round(), boxes.round()
    arguments = (candidates, boxes, torch.tensor([0, int(split * truths), truths]), *iou, keep_best)
    for one, other in zip(
        ops_cuda.match_boxes(*arguments), reference.match_boxes(*arguments), strict=True
    ):
        assert one.equal(other)


@pytest.mark.parametrize("shared", [True, False])
def test_degenerate_boxes_and_uneven_images_are_matched_as_the_twin_does(shared):
    arguments = (*match_scene(1000, shared), 0.5, 0.3, True)
    expected = reference.match_boxes(*arguments)
    for one, other in zip(ops_cuda.match_boxes(*arguments), expected, strict=True):
        assert one.equal(other)


def test_threads_do_not_change_the_result(two_thread_counts):
    candidates, truths = random_boxes(60_000)[None].round(), random_boxes(40, seed=1).round()
    arguments = (candidates, truths, torch.tensor([0, 40]), 0.5, 0.3, True)
    one, two = two_thread_counts(lambda: torch.stack(ops_cuda.match_boxes(*arguments)))
    assert one.equal(two)


def test_strides_and_half_types_do_not_matter():
    candidates, truths, offsets = match_scene(100)
    wide = torch.cat([candidates, candidates], 2)[..., 4:]
    expected = ops_cuda.match_boxes(candidates, truths, offsets, 0.5, 0.3)
    found = ops_cuda.match_boxes(wide, truths.t().contiguous().t(), offsets, 0.5, 0.3)
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    for dtype in (torch.float16, torch.bfloat16):
        halves = candidates.to(dtype), truths.to(dtype)
        expected = ops_cuda.match_boxes(*(each.float() for each in halves), offsets, 0.5, 0.3)
        found = ops_cuda.match_boxes(*halves, offsets, 0.5, 0.3)
        assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


def test_two_hundred_thousand_candidates_and_two_thousand_truths_need_no_matrix():
    program = """
import resource, torch, ops_cuda
from tests.ops_cuda.scenes import random_boxes
torch.set_num_threads(2)
truths, offsets = random_boxes(2000, seed=1), torch.tensor([0, 2000])
candidates = random_boxes(200_000)[None]
ops_cuda.match_boxes(candidates[:, :64], truths, offsets, 0.7, 0.3, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ops_cuda.match_boxes(candidates, truths, offsets, 0.7, 0.3, True)
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
    ("changes", "complaint"),
    [
        ({"candidates": torch.zeros(3, 4)}, r"candidates must be \(B or 1, N, 4\); got \(3, 4\)"),
        ({"candidates": torch.zeros(1, 3, 4).long()}, "candidates must be floating point"),
        ({"truths": torch.zeros(8)}, r"truths must be \(N, 4\).*Flattened twice"),
        ({"truth_offsets": torch.zeros(2)}, "truth_offsets must be"),
        ({"candidates": torch.zeros(3, 3, 4)}, "one more than images; got 2 for candidates of 3"),
        ({"positive_iou": 50}, r"positive_iou must be in \[0, 1\]; got 50"),
        ({"negative_iou": 0.8}, "negative_iou 0.8 is above positive_iou 0.7"),
        ({"truths": torch.zeros(2, 4, device="meta")}, "different devices"),
    ],
)
def test_wrong_arguments_are_named(changes, complaint):
    arguments = {
        "candidates": torch.zeros(1, 3, 4),
        "truths": TRUTHS,
        "truth_offsets": ALL,
        "positive_iou": 0.7,
        "negative_iou": 0.3,
    }
    with pytest.raises(ValueError, match=complaint):
        ops_cuda.match_boxes(**(arguments | changes))


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3], [0, 2, 1], [0, -1, 2]])
def test_offsets_that_cannot_be_are_refused(offsets):
    with pytest.raises(RuntimeError, match="truth_offsets"):
        ops_cuda.match_boxes(torch.zeros(1, 3, 4), TRUTHS, torch.tensor(offsets), 0.5, 0.5)
