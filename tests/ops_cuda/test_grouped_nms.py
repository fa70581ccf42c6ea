import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

import ops_cuda
from ops_cuda.grouped_nms import grouped_nms_reference
from tests.ops_cuda.scenes import random_boxes, tied_scores


def unsorted_reference(boxes, scores, threshold, max_kept):
    return grouped_nms_reference(boxes, scores, threshold, max_kept, presorted=False)


IMPLEMENTATIONS = pytest.mark.parametrize(
    "grouped_nms", [ops_cuda.grouped_nms, unsorted_reference], ids=["public", "reference"]
)


@IMPLEMENTATIONS
def test_grouped_nms_keeps_the_highest_score_of_each_cluster_of_each_group(grouped_nms):
    cluster = [[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]
    boxes = torch.tensor([cluster, cluster])
    scores = torch.tensor([[0.8, 0.9, 0.3], [0.5, -torch.inf, -torch.inf]])
    kept, counts = grouped_nms(boxes, scores, 0.5, 9)
    assert kept.tolist() == [[1, 2, 0], [0, 0, 0]]
    assert counts.tolist() == [2, 1]


@IMPLEMENTATIONS
@pytest.mark.parametrize(("groups", "size"), [(0, 5), (3, 0), (1, 1), (3, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_group_keeps_what_torchvision_keeps(grouped_nms, groups, size, dtype):
    boxes = random_boxes(groups * size).to(dtype).view(groups, size, 4)
    scores = tied_scores(groups * size).to(dtype).view(groups, size)
    kept, counts = grouped_nms(boxes, scores, 0.5, 40)
    assert kept.shape == (groups, min(size, 40))
    for group in range(groups):
        alone = torchvision.ops.nms(boxes[group], scores[group], 0.5)[:40]
        assert kept[group, : counts[group]].tolist() == alone.tolist()
        assert (kept[group, counts[group] :] == 0).all()


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 90),
    seed=st.integers(0, 2**16),
    threshold=st.sampled_from([0.0, 0.4, 1.0]),
    max_kept=st.integers(0, 100),
    presorted=st.booleans(),
    values=st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf")]), max_size=9),
)
def test_the_reference_agrees_for_any_values(size, seed, threshold, max_kept, presorted, values):
    boxes, scores = random_boxes(3 * size, seed=seed), tied_scores(3 * size, seed)
    slots = torch.randint(0, 3 * size, (len(values),), generator=torch.manual_seed(seed))
    boxes.view(-1)[slots * 4 + slots % 4] = torch.tensor(values)
    scores[slots[:5]] = torch.tensor(values[:5])
    arguments = (boxes.view(3, size, 4), scores.view(3, size), threshold, max_kept, presorted)
    for one, other in zip(
        ops_cuda.grouped_nms(*arguments), grouped_nms_reference(*arguments), strict=True
    ):
        assert one.equal(other)


def test_the_result_does_not_depend_on_layout_or_thread_count(two_thread_counts):
    boxes, scores = random_boxes(12_000).view(4, 3000, 4), tied_scores(12_000).view(4, 3000)
    one, two = two_thread_counts(lambda: ops_cuda.grouped_nms(boxes, scores, 0.5, 900))
    strided = boxes.transpose(0, 1).contiguous().transpose(0, 1)
    three = ops_cuda.grouped_nms(strided, scores.t().contiguous().t(), 0.5, 900)
    for a, b, c in zip(one, two, three, strict=True):
        assert a.equal(b)
        assert a.equal(c)


def test_half_precision_is_computed_in_float32():
    boxes, scores = random_boxes(200).half().view(2, 100, 4), tied_scores(200).half().view(2, 100)
    expected = ops_cuda.grouped_nms(boxes.float(), scores.float(), 0.5, 50)
    actual = ops_cuda.grouped_nms(boxes, scores, 0.5, 50)
    assert all(a.equal(b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 4), torch.zeros(2), 0.5, 1), r"boxes must be \(groups, N, 4\)"),
        ((torch.zeros(2, 3, 4).long(), torch.zeros(2, 3), 0.5, 1), "boxes must be floating"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 4), 0.5, 1), r"scores must be \(groups, N\)"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3), 5, 1), "iou_threshold must be"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3), 0.5, -1), "max_kept must not be negative"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, device="meta"), 0.5, 1), "different devices"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops_cuda.grouped_nms(*arguments)
