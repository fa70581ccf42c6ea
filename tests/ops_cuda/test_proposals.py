import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import BoxCoder

import ops_cuda
from ops_cuda import reference
from tests.ops_cuda.examples import candidates
from tests.ops_cuda.scenes import judged_anchors

LARGEST = math.log(1000 / 16)
IMPLEMENTATIONS = pytest.mark.parametrize("ops", [ops_cuda, reference], ids=["public", "twin"])
WAITING = {"nonzero", "_local_scalar_dense", "item", "masked_select", "unique2", "_unique2"}


class RefusesToWait(TorchDispatchMode):
    """Raises at operators for which the host would wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in WAITING or masks:
            raise RuntimeError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@IMPLEMENTATIONS
def test_a_box_beyond_the_border_keeps_as_much_of_the_image_as_it_is_told(ops):
    # left of it, above it, right of it, across its corner
    anchors = torch.tensor([[-30.0, 4, -20, 9], [4, -9, 9, -2], [60, 4, 70, 9], [35, 25, 60, 60]])
    arguments = (
        [torch.tensor([[4.0, 3.0, 2.0, 1.0]])],
        [torch.arange(4)[None]],
        [torch.zeros(1, 4, 4)],
        [anchors],
        torch.tensor([[40.0, 30, 40, 30]]),
        0.5,
        LARGEST,
    )
    boxes, scores = ops.decode_proposals(*arguments, kept_side=1.0)
    expected = [[0.0, 4, 1, 9], [4, 0, 9, 1], [39, 4, 40, 9], [35, 25, 40, 30]]
    torch.testing.assert_close(boxes[0, 0], torch.tensor(expected))
    assert scores[0, 0].tolist() == [4, 3, 2, 1]
    _, scores = ops.decode_proposals(*arguments)
    assert scores[0, 0].tolist() == [-torch.inf] * 3 + [1]


def select(judged, pre_nms=50, post_nms=30, min_side=1e-3):
    return ops_cuda.select_proposals(*judged, pre_nms, post_nms, 0.7, min_side, LARGEST)


@IMPLEMENTATIONS
def test_top_scores_rank_ties_by_index_and_nan_first(ops):
    nan = float("nan")
    scores = torch.tensor([[0.0, 2.0, -0.0, 2.0, -1.0], [1.0, nan, -torch.inf, torch.inf, 0.5]])
    values, indices = ops.top_scores(scores, 3)
    assert indices.tolist() == [[1, 3, 0], [1, 3, 0]]
    torch.testing.assert_close(values, scores.gather(1, indices), equal_nan=True)


@IMPLEMENTATIONS
@pytest.mark.parametrize("size", [0, 1, 5, 300, 5000])
@pytest.mark.parametrize("levels", [1, 40, 10**6])
def test_top_scores_are_the_head_of_a_stable_sort(ops, size, levels):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(-levels, levels, (3, size), generator=generator) / 7
    for count in (0, 1, 300, 10**6):
        expected = scores.sort(dim=1, descending=True, stable=True)
        values, indices = ops.top_scores(scores, count)
        assert indices.equal(expected.indices[:, :count])
        assert values.equal(expected.values[:, :count])


@IMPLEMENTATIONS
def test_a_box_is_decoded_clipped_and_dropped_where_it_is_thin(ops):
    anchors = [torch.tensor([[0.0, 0, 10, 20], [90, 90, 110, 110], [5, 5, 5.5, 9]])]
    deltas = [torch.tensor([[[0.5, 0, math.log(2), 0], [0, 0, 0, 0], [0, 0, 0, 0]]])]
    boxes, scores = ops.decode_proposals(
        [torch.tensor([[3.0, 2.0, 1.0]])],
        [torch.tensor([[0, 1, 2]])],
        deltas,
        anchors,
        torch.tensor([[100.0, 95, 100, 95]]),
        1.0,
        LARGEST,
    )
    expected = [[0.0, 0, 20, 20], [90, 90, 100, 95], [0, 0, 0, 0]]
    torch.testing.assert_close(boxes[0, 0], torch.tensor(expected))
    assert scores[0, 0].tolist() == [3, 2, -torch.inf]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    per_level=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    values=st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]), max_size=4),
)
def test_native_and_twin_decode_alike(seed, per_level, values):
    logits, deltas, anchors, limits = judged_anchors(per_level=per_level, seed=seed)
    deltas[0].view(-1)[: len(values)] = torch.tensor(values)
    logits[-1][0, 0] = float("nan")
    best = [level.topk(min(20, level.shape[1]), dim=1) for level in logits]
    arguments = ([b.values for b in best], [b.indices for b in best], deltas, anchors, limits)
    found = ops_cuda.decode_proposals(*arguments, 2.0, LARGEST)
    expected = reference.decode_proposals(*arguments, 2.0, LARGEST)
    # Two exponential functions, each right to its last bit; up to 1,000 pixels.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("per_level", [(300, 80, 20), (7,), (3, 2)])
def test_proposals_are_those_of_torchvision_s_steps(per_level):
    judged = judged_anchors(per_level=per_level)
    logits, deltas, anchors, limits = judged
    # no ties, also between levels: torchvision leaves their order open
    sizes = [level.numel() for level in logits]
    steps = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0)).split(sizes)
    logits = [level + 1e-5 * step.view_as(level) for level, step in zip(logits, steps, strict=True)]
    boxes, scores, counts = select((logits, deltas, anchors, limits), min_side=3.0)
    assert boxes.shape == (2, min(30, sum(min(50, n) for n in per_level)), 4)
    for image, (width, height) in enumerate(limits[:, :2].tolist()):
        found, found_scores, found_levels = [], [], []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            top = logit[image].topk(min(50, len(anchor)))
            decoded = BoxCoder((1.0,) * 4).decode(delta[image, top.indices], [anchor[top.indices]])
            found.append(torchvision.ops.clip_boxes_to_image(decoded[:, 0], (height, width)))
            found_scores.append(top.values)
            found_levels.append(torch.full_like(top.indices, level))
        every, score, level = torch.cat(found), torch.cat(found_scores), torch.cat(found_levels)
        large = torchvision.ops.remove_small_boxes(every, 3.0)
        every, score, level = every[large], score[large], level[large]
        kept = torchvision.ops.batched_nms(every, score, level, 0.7)[:30]
        assert counts[image] == len(kept)
        torch.testing.assert_close(boxes[image, : len(kept)], every[kept])
        torch.testing.assert_close(scores[image, : len(kept)], score[kept])
        assert (boxes[image, len(kept) :] == 0).all()
        assert (scores[image, len(kept) :] == 0).all()


def test_no_box_that_is_no_box_is_proposed():
    logits, deltas, anchors, limits = judged_anchors()
    deltas[0][0, ::3] = float("nan")
    deltas[1][0, ::2] = float("inf")
    logits[2][0] = float("nan")
    boxes, scores, counts = select((logits, deltas, anchors, limits))
    assert boxes.isfinite().all()
    assert scores.isfinite().all()
    assert counts[0] > 0


def test_an_image_all_of_whose_boxes_are_thin_has_none():
    boxes, scores, counts = select(judged_anchors(), min_side=1e4)
    assert counts.tolist() == [0, 0]
    assert not boxes.any()
    assert not scores.any()


@pytest.mark.parametrize("images", [0, 1])
def test_an_empty_batch_and_one_anchor(images):
    boxes, _, counts = select(judged_anchors(images=images, per_level=(1,)))
    assert boxes.shape == (images, 1, 4)
    assert counts.shape == (images,)


@pytest.mark.parametrize("compiled", [True, False], ids=["native", "twins"])
def test_nothing_waits_for_the_device(compiled, monkeypatch):
    # The twins of suppression stand for kernels that every device has; top_scores' serves CUDA.
    if not compiled:
        monkeypatch.setattr(
            ops_cuda.proposals.library, "compiled_for", lambda name, _: name == "grouped_nms"
        )
    judged = judged_anchors()
    expected = select(judged)
    with RefusesToWait():
        found = select(judged)
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(RuntimeError, match="waits"), RefusesToWait():
        judged[0][0][judged[0][0] > 0]


def test_threads_layout_and_half_types_do_not_change_the_result(two_thread_counts):
    judged = judged_anchors(per_level=(60_000, 900))
    one, two = two_thread_counts(lambda: select(judged))
    logits, deltas, anchors, limits = judged
    strided = [level.transpose(1, 2).contiguous().transpose(1, 2) for level in deltas]
    halves = [level.half() for level in logits]
    three = select(([level.t().contiguous().t() for level in logits], strided, anchors, limits))
    for a, b, c in zip(one, two, three, strict=True):
        assert a.equal(b)
        assert a.equal(c)
    rounded = select(([level.float() for level in halves], deltas, anchors, limits))
    found = select((halves, deltas, anchors, limits))
    assert all(a.equal(b) for a, b in zip(found, rounded, strict=True))


def test_an_index_out_of_range_is_refused():
    scores, indices, *rest = candidates()
    for wild in (-1, 40, 2**60):
        indices[0][0, 0] = wild
        with pytest.raises(RuntimeError, match="of 40 anchors"):
            ops_cuda.decode_proposals(scores, indices, *rest, 1e-3, LARGEST)


def test_wrong_arguments_are_named():
    logits, deltas, anchors, limits = judged_anchors()
    for changed, complaint in (
        ((logits, deltas[:2], anchors, limits), "one tensor per level"),
        ((logits, [deltas[1], *deltas[1:]], anchors, limits), r"deltas\[0\] must be"),
        ((logits, deltas, [anchors[0].view(-1), *anchors[1:]], limits), r"anchors\[0\].*Flatt"),
        ((logits, deltas, anchors, limits[:1]), "scores of 1 images"),
        ((logits, deltas, anchors, limits.to("meta")), "different devices"),
    ):
        with pytest.raises(ValueError, match=complaint):
            select(changed)
    for numbers, complaint in (((0, 9), "pre_nms"), ((9, 0), "post_nms")):
        with pytest.raises(ValueError, match=f"{complaint} must be positive"):
            select((logits, deltas, anchors, limits), *numbers)
    with pytest.raises(ValueError, match="count must not be negative"):
        ops_cuda.top_scores(logits[0], -1)
    with pytest.raises(ValueError, match=r"scores must be \(B, N\)"):
        ops_cuda.top_scores(logits[0][0], 1)
