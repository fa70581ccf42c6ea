import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

import ops_cuda
from ops_cuda.nms import batched_nms_mask_reference, batched_nms_reference, nms_reference
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import random_boxes, random_labels, tied_scores

IMPLEMENTATIONS = both_implementations(
    nms_reference, batched_nms_reference, batched_nms_mask_reference
)


def overlap(boxes):
    return torchvision.ops.box_iou(boxes, boxes)


@IMPLEMENTATIONS
def test_nms_keeps_the_highest_score_of_each_cluster(ops):
    boxes = torch.tensor(
        [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [50, 51, 60, 61], [0, 0, 9, 10]]
    ).float()
    scores = torch.tensor([0.8, 0.9, 0.3, 0.7, 0.1])
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 3]


@IMPLEMENTATIONS
def test_an_iou_at_the_threshold_does_not_suppress(ops):
    boxes = torch.tensor([[0.0, 0, 2, 1], [0.0, 0, 1, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.49).tolist() == [0]


@IMPLEMENTATIONS
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 700])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_indices_match_torchvision_including_ties(ops, count, threshold):
    boxes, scores = random_boxes(count), tied_scores(count)
    expected = torchvision.ops.nms(boxes, scores, threshold)
    assert ops.nms(boxes, scores, threshold).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_indices_of_many_boxes_match_torchvision(dtype):
    boxes, scores = random_boxes(6000, extent=600.0).to(dtype), tied_scores(6000).to(dtype)
    for threshold in (0.1, 0.5, 0.7):
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert ops_cuda.nms(boxes, scores, threshold).tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 150),
    seed=st.integers(0, 2**16),
    threshold=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
    largest=st.sampled_from([5.0, 40.0, 200.0]),
)
def test_kept_boxes_do_not_overlap_and_each_suppressed_box_overlaps_a_better_one(
    count, seed, threshold, largest
):
    boxes, scores = random_boxes(count, largest=largest, seed=seed), tied_scores(count, seed)
    kept = ops_cuda.nms(boxes, scores, threshold)
    iou = overlap(boxes).fill_diagonal_(0)
    assert (iou[kept][:, kept] <= threshold + 1e-6).all()
    assert (scores[kept].diff() <= 0).all()
    suppressed = torch.tensor(sorted(set(range(count)) - set(kept.tolist())), dtype=torch.long)
    better = scores[kept][None] >= scores[suppressed][:, None]
    assert ((iou[suppressed][:, kept] > threshold - 1e-6) & better).any(1).all()


@IMPLEMENTATIONS
@pytest.mark.parametrize("max_kept", [0, 1, 10, 10_000])
def test_max_kept_truncates_the_result(ops, max_kept):
    boxes, scores, classes = random_boxes(300), tied_scores(300), random_labels(300)
    all_kept = ops.nms(boxes, scores, 0.5)
    assert ops.nms(boxes, scores, 0.5, max_kept).tolist() == all_kept[:max_kept].tolist()
    all_kept = ops.batched_nms(boxes, scores, classes, 0.5)
    batched = ops.batched_nms(boxes, scores, classes, 0.5, max_kept)
    assert batched.tolist() == all_kept[:max_kept].tolist()


@IMPLEMENTATIONS
@pytest.mark.parametrize("count", [0, 1, 500])
def test_batched_nms_suppresses_within_each_class_and_sorts_by_score(ops, count):
    boxes, scores = random_boxes(count), tied_scores(count)
    classes = random_labels(count, classes=7) * 1_000_003 - 5
    kept = ops.batched_nms(boxes, scores, classes, 0.4)
    expected = []
    for label in classes.unique():
        members = (classes == label).nonzero()[:, 0]
        alone = torchvision.ops.nms(boxes[members], scores[members], 0.4)
        expected += members[alone].tolist()
    assert kept.tolist() == sorted(expected, key=lambda i: (-scores[i].item(), i))


@IMPLEMENTATIONS
def test_batched_nms_is_exact_where_offsetting_boxes_by_class_would_lose_precision(ops):
    # The coordinate trick would offset by 2e7 per class, where float32 has steps of 2.
    boxes = torch.tensor([[2e7, 0, 2e7 + 8, 8], [0.0, 0, 1, 1], [0.25, 0, 1.25, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [0, 1]
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 2]), 0.5).tolist() == [0, 1, 2]


@IMPLEMENTATIONS
def test_degenerate_boxes_are_handled_as_in_torchvision(ops):
    boxes, scores = random_boxes(60), tied_scores(60)
    boxes[3], boxes[4, 0], boxes[5, 2] = float("nan"), float("nan"), float("inf")
    boxes[6], boxes[7] = boxes[8], boxes[8, [2, 3, 0, 1]]
    boxes[9, 2:] = boxes[9, :2]
    scores[10], scores[11], scores[12] = float("nan"), float("inf"), -float("inf")
    for threshold in (0.0, 0.5):
        kept = ops.nms(boxes, scores, threshold).tolist()
        assert kept == torchvision.ops.nms(boxes, scores, threshold).tolist()
        assert {3, 4} <= set(kept)  # a box with a NaN overlaps nothing


def test_input_strides_do_not_matter():
    wide = random_boxes(200).repeat_interleave(2, 0)
    wide = torch.cat([wide, wide], 1)
    boxes, scores = wide[::2, 4:], tied_scores(400)[::2]
    labels = random_labels(400)[::2]
    assert not boxes.is_contiguous()
    expected = ops_cuda.nms(boxes.contiguous(), scores.contiguous(), 0.5)
    assert ops_cuda.nms(boxes, scores, 0.5).equal(expected)
    expected = ops_cuda.batched_nms(boxes.contiguous(), scores.contiguous(), labels.clone(), 0.5)
    assert ops_cuda.batched_nms(boxes, scores, labels, 0.5).equal(expected)


def test_half_precision_is_computed_in_float32():
    boxes, scores = random_boxes(200).half(), tied_scores(200).half()
    expected = ops_cuda.nms(boxes.float(), scores.float(), 0.5)
    assert ops_cuda.nms(boxes, scores, 0.5).equal(expected)


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    boxes, scores, classes = random_boxes(2000), tied_scores(2000), random_labels(2000, 40)
    one, two = two_thread_counts(lambda: ops_cuda.batched_nms(boxes, scores, classes, 0.5))
    assert one.equal(two)


@IMPLEMENTATIONS
@pytest.mark.parametrize("count", [0, 1, 500])
def test_batched_nms_mask_marks_what_batched_nms_keeps(ops, count):
    boxes, scores, classes = random_boxes(count), tied_scores(count), random_labels(count, 7)
    for labels in (classes, classes * 2**60 - 2**61):
        is_kept = ops.batched_nms_mask(boxes, scores, labels, 0.4)
        kept = ops.batched_nms(boxes, scores, labels, 0.4)
        assert is_kept.nonzero()[:, 0].tolist() == sorted(kept.tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(8), torch.zeros(2), 0.5), r"boxes must be \(N, 4\).*Flattened twice"),
        ((torch.zeros(2, 4).long(), torch.zeros(2), 0.5), "boxes must be floating point"),
        ((torch.zeros(2, 4), torch.zeros(3), 0.5), "lengths disagree"),
        ((torch.zeros(2, 4), torch.zeros(2, 1), 0.5), r"scores must be \(N,\)"),
        ((torch.zeros(2, 4), torch.zeros(2), 50), r"iou_threshold must be in \[0, 1\]; got 50"),
        ((torch.zeros(2, 4), torch.zeros(2), 0.5, -2), "max_kept must be -1"),
        ((torch.zeros(2, 4), torch.zeros(2, device="meta"), 0.5), "different devices"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops_cuda.nms(*arguments)


def test_classes_must_be_integers_one_per_box():
    with pytest.raises(ValueError, match="classes must be"):
        ops_cuda.batched_nms(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="lengths disagree"):
        ops_cuda.batched_nms(torch.zeros(2, 4), torch.zeros(2), torch.zeros(3).long(), 0.5)
