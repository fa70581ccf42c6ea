import pytest
import torch

import ops_cuda
from ops_cuda.stable_topk import stable_topk_reference
from tests.ops_cuda.implementations import both_implementations

IMPLEMENTATIONS = both_implementations(stable_topk_reference)


@IMPLEMENTATIONS
def test_ties_rank_by_index_and_nan_first(ops):
    nan = float("nan")
    scores = torch.tensor([[0.0, 2.0, -0.0, 2.0, -1.0], [1.0, nan, -torch.inf, torch.inf, 0.5]])
    values, indices = ops.stable_topk(scores, 3)
    assert indices.tolist() == [[1, 3, 0], [1, 3, 0]]
    torch.testing.assert_close(values, scores.gather(1, indices), equal_nan=True)


@IMPLEMENTATIONS
@pytest.mark.parametrize("size", [0, 1, 5, 300, 5000])
@pytest.mark.parametrize("levels", [1, 40, 10**6])
def test_the_result_is_the_head_of_a_stable_sort(ops, size, levels):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(-levels, levels, (3, size), generator=generator) / 7
    for k in (0, 1, 300, 10**6):
        expected = scores.sort(dim=1, descending=True, stable=True)
        values, indices = ops.stable_topk(scores, k)
        assert indices.equal(expected.indices[:, :k])
        assert values.equal(expected.values[:, :k])


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match="k must not be negative"):
        ops_cuda.stable_topk(torch.zeros(2, 9), -1)
    with pytest.raises(ValueError, match=r"scores must be \(B, N\)"):
        ops_cuda.stable_topk(torch.zeros(9), 1)
