import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ops_cuda
from ops_cuda.decode_proposals import decode_proposals_reference
from tests.ops_cuda.examples import selected_anchors
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import scored_anchors

MAX_LOG_SCALE = math.log(1000 / 16)
IMPLEMENTATIONS = both_implementations(decode_proposals_reference)


@IMPLEMENTATIONS
def test_boxes_are_decoded_clipped_and_dropped_if_a_side_is_short(ops):
    anchors = [torch.tensor([[0.0, 0, 10, 20], [90, 90, 110, 110], [5, 5, 5.5, 9]])]
    deltas = [torch.tensor([[[0.5, 0, math.log(2), 0], [0, 0, 0, 0], [0, 0, 0, 0]]])]
    boxes, scores = ops.decode_proposals(
        [torch.tensor([[3.0, 2.0, 1.0]])],
        [torch.tensor([[0, 1, 2]])],
        deltas,
        anchors,
        torch.tensor([[100.0, 95, 100, 95]]),
        1.0,
        MAX_LOG_SCALE,
    )
    expected = [[0.0, 0, 20, 20], [90, 90, 100, 95], [0, 0, 0, 0]]
    torch.testing.assert_close(boxes[0, 0], torch.tensor(expected))
    assert scores[0, 0].tolist() == [3, 2, -torch.inf]


@IMPLEMENTATIONS
def test_a_box_beyond_the_border_keeps_min_clipped_side_of_the_image(ops):
    # left of the image, above it, right of it, across its corner
    anchors = torch.tensor([[-30.0, 4, -20, 9], [4, -9, 9, -2], [60, 4, 70, 9], [35, 25, 60, 60]])
    arguments = (
        [torch.tensor([[4.0, 3.0, 2.0, 1.0]])],
        [torch.arange(4)[None]],
        [torch.zeros(1, 4, 4)],
        [anchors],
        torch.tensor([[40.0, 30, 40, 30]]),
        0.5,
        MAX_LOG_SCALE,
    )
    boxes, scores = ops.decode_proposals(*arguments, min_clipped_side=1.0)
    expected = [[0.0, 4, 1, 9], [4, 0, 9, 1], [39, 4, 40, 9], [35, 25, 40, 30]]
    torch.testing.assert_close(boxes[0, 0], torch.tensor(expected))
    assert scores[0, 0].tolist() == [4, 3, 2, 1]
    _, scores = ops.decode_proposals(*arguments)
    assert scores[0, 0].tolist() == [-torch.inf] * 3 + [1]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    per_level=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    values=st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]), max_size=4),
)
def test_the_reference_agrees_for_any_values(seed, per_level, values):
    logits, deltas, anchors, limits = scored_anchors(per_level=per_level, seed=seed)
    deltas[0].view(-1)[: len(values)] = torch.tensor(values)
    logits[-1][0, 0] = float("nan")
    top = [level.topk(min(20, level.shape[1]), dim=1) for level in logits]
    arguments = ([t.values for t in top], [t.indices for t in top], deltas, anchors, limits)
    actual = ops_cuda.decode_proposals(*arguments, 2.0, MAX_LOG_SCALE)
    expected = decode_proposals_reference(*arguments, 2.0, MAX_LOG_SCALE)
    # Two exponential functions, each accurate to its last bit; up to 1,000 pixels.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


def test_an_index_out_of_range_raises():
    scores, indices, *rest = selected_anchors()
    for invalid in (-1, 40, 2**60):
        indices[0][0, 0] = invalid
        with pytest.raises(RuntimeError, match="out of range of 40 anchors"):
            ops_cuda.decode_proposals(scores, indices, *rest, 1e-3, MAX_LOG_SCALE)
