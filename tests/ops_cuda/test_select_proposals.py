import math

import pytest
import torch
import torchvision
from torchvision.models.detection._utils import BoxCoder

import ops_cuda
from ops_cuda import library
from tests.ops_cuda.forbid_sync import ForbidSync
from tests.ops_cuda.scenes import scored_anchors

MAX_LOG_SCALE = math.log(1000 / 16)


def select(scored, pre_nms=50, post_nms=30, min_side=1e-3):
    return ops_cuda.select_proposals(*scored, pre_nms, post_nms, 0.7, min_side, MAX_LOG_SCALE)


@pytest.mark.parametrize("per_level", [(300, 80, 20), (7,), (3, 2)])
def test_proposals_match_the_steps_of_torchvision(per_level):
    scored = scored_anchors(per_level=per_level)
    logits, deltas, anchors, limits = scored
    # no ties, not even between levels: torchvision does not define their order
    sizes = [level.numel() for level in logits]
    steps = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0)).split(sizes)
    logits = [level + 1e-5 * step.view_as(level) for level, step in zip(logits, steps, strict=True)]
    boxes, scores, counts = select((logits, deltas, anchors, limits), min_side=3.0)
    assert boxes.shape == (2, min(30, sum(min(50, n) for n in per_level)), 4)
    for image, (width, height) in enumerate(limits[:, :2].tolist()):
        all_boxes, all_scores, all_levels = [], [], []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            top = logit[image].topk(min(50, len(anchor)))
            decoded = BoxCoder((1.0,) * 4).decode(delta[image, top.indices], [anchor[top.indices]])
            all_boxes.append(torchvision.ops.clip_boxes_to_image(decoded[:, 0], (height, width)))
            all_scores.append(top.values)
            all_levels.append(torch.full_like(top.indices, level))
        expected, score, level = torch.cat(all_boxes), torch.cat(all_scores), torch.cat(all_levels)
        large = torchvision.ops.remove_small_boxes(expected, 3.0)
        expected, score, level = expected[large], score[large], level[large]
        kept = torchvision.ops.batched_nms(expected, score, level, 0.7)[:30]
        assert counts[image] == len(kept)
        torch.testing.assert_close(boxes[image, : len(kept)], expected[kept])
        torch.testing.assert_close(scores[image, : len(kept)], score[kept])
        assert (boxes[image, len(kept) :] == 0).all()
        assert (scores[image, len(kept) :] == 0).all()


def test_boxes_and_logits_with_nan_are_not_proposed():
    logits, deltas, anchors, limits = scored_anchors()
    deltas[0][0, ::3] = float("nan")
    deltas[1][0, ::2] = float("inf")
    logits[2][0] = float("nan")
    boxes, scores, counts = select((logits, deltas, anchors, limits))
    assert boxes.isfinite().all()
    assert scores.isfinite().all()
    assert counts[0] > 0


def test_an_image_with_only_short_sided_boxes_has_no_proposals():
    boxes, scores, counts = select(scored_anchors(), min_side=1e4)
    assert counts.tolist() == [0, 0]
    assert not boxes.any()
    assert not scores.any()


@pytest.mark.parametrize("images", [0, 1])
def test_an_empty_batch_and_a_single_anchor(images):
    boxes, _, counts = select(scored_anchors(images=images, per_level=(1,)))
    assert boxes.shape == (images, 1, 4)
    assert counts.shape == (images,)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_no_step_needs_a_device_sync(compiled, monkeypatch):
    # The reference of NMS does sync, but every device has its kernel; that of stable_topk runs on
    # CUDA.
    if not compiled:
        monkeypatch.setattr(library, "KERNELS", {"grouped_nms": library.KERNELS["grouped_nms"]})
    scored = scored_anchors()
    expected = select(scored)
    with ForbidSync():
        actual = select(scored)
    assert all(one.equal(other) for one, other in zip(actual, expected, strict=True))
    with pytest.raises(AssertionError, match="syncs with the device"), ForbidSync():
        scored[0][0][scored[0][0] > 0]


def test_the_result_does_not_depend_on_layout_half_types_or_thread_count(two_thread_counts):
    scored = scored_anchors(per_level=(60_000, 900))
    one, two = two_thread_counts(lambda: select(scored))
    logits, deltas, anchors, limits = scored
    strided = [level.transpose(1, 2).contiguous().transpose(1, 2) for level in deltas]
    halves = [level.half() for level in logits]
    three = select(([level.t().contiguous().t() for level in logits], strided, anchors, limits))
    for a, b, c in zip(one, two, three, strict=True):
        assert a.equal(b)
        assert a.equal(c)
    rounded = select(([level.float() for level in halves], deltas, anchors, limits))
    actual = select((halves, deltas, anchors, limits))
    assert all(a.equal(b) for a, b in zip(actual, rounded, strict=True))


def test_invalid_arguments_are_named():
    logits, deltas, anchors, limits = scored_anchors()
    for changed, message in (
        ((logits, deltas[:2], anchors, limits), "one tensor per level"),
        ((logits, [deltas[1], *deltas[1:]], anchors, limits), r"deltas\[0\] must be"),
        ((logits, deltas, [anchors[0].view(-1), *anchors[1:]], limits), r"anchors\[0\].*Flatt"),
        ((logits, deltas, anchors, limits[:1]), "scores of 1 images"),
        ((logits, deltas, anchors, limits.to("meta")), "different devices"),
    ):
        with pytest.raises(ValueError, match=message):
            select(changed)
    for numbers, message in (((0, 9), "pre_nms"), ((9, 0), "post_nms")):
        with pytest.raises(ValueError, match=f"{message} must be positive"):
            select((logits, deltas, anchors, limits), *numbers)
