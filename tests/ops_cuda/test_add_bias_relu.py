"""Bias, shortcut and ReLU after a convolution."""

import itertools

import pytest
import torch

import ops_cuda
from ops_cuda.add_bias_relu import add_bias_relu__reference
from tests.ops_cuda.implementations import both_implementations

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def random_arguments(dtype=torch.float32, layout=torch.channels_last, shape=(2, 7, 3, 5)):
    generator = torch.Generator().manual_seed(4)
    x, shortcut = (torch.randn(shape, generator=generator) for _ in range(2))
    bias = torch.randn(shape[1], generator=generator)
    return (
        x.to(dtype).contiguous(memory_format=layout),
        bias.to(dtype),
        shortcut.to(dtype).contiguous(memory_format=layout),
    )


def changed(x, *arguments, ops=ops_cuda):
    """Return the result for a copy of x in the same layout."""
    copy = x.clone(memory_format=torch.preserve_format)
    result = ops.add_bias_relu_(copy, *arguments)
    assert result.data_ptr() == copy.data_ptr()
    return result


@both_implementations(add_bias_relu__reference)
def test_a_known_answer(ops):
    x = torch.tensor([-3.0, 1.0]).view(1, 2, 1, 1)
    bias, shortcut = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -7.0]).view(1, 2, 1, 1)
    assert changed(x, bias, shortcut, ops=ops).flatten().tolist() == [0.0, 0.0]
    assert changed(x, bias, ops=ops).flatten().tolist() == [0.0, 2.0]
    assert changed(x, bias, shortcut, False, ops=ops).flatten().tolist() == [-1.0, -5.0]
    assert changed(x, ops=ops).flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (1, 64, 20, 31), (3, 1, 4, 4), (2, 300, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_combination_equals_separate_operators(shape, dtype):
    for layout, relu in itertools.product(LAYOUTS, (True, False)):
        x, bias, shortcut = random_arguments(dtype, layout, shape)
        for some_bias, some_shortcut in itertools.product((bias, None), (shortcut, None)):
            expected = x if some_bias is None else x + bias.view(-1, 1, 1)
            expected = expected if some_shortcut is None else expected + shortcut
            expected = expected.relu() if relu else expected
            actual = changed(x, some_bias, some_shortcut, relu)
            assert actual.equal(expected)
            assert actual.stride() == x.stride()


@both_implementations(add_bias_relu__reference)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_nan_and_infinity_pass_through(ops, layout):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0]).view(1, 1, 2, 2)
    result = changed(x.contiguous(memory_format=layout), ops=ops).flatten()
    assert result[0].isnan() and result[1:].tolist() == [float("inf"), 0.0, 1.0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("relu", [True, False])
def test_gradients_equal_numerical_ones(layout, relu):
    arguments = random_arguments(torch.float64, layout)
    for each in arguments:
        each.requires_grad_()

    def run(x, bias=None, shortcut=None):
        return ops_cuda.add_bias_relu_(x.clone(), bias, shortcut, relu)

    for some in (arguments, (arguments[0], None, arguments[2]), arguments[:2], arguments[:1]):
        torch.autograd.gradcheck(run, some)


def test_a_layer_that_keeps_its_output_for_its_gradient_is_refused():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    kept = x.exp()
    ops_cuda.add_bias_relu_(kept)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_a_float32_bias_of_a_half_map_gets_a_float32_gradient():
    x, bias, shortcut = random_arguments(torch.bfloat16)
    bias = bias.float().requires_grad_()
    ops_cuda.add_bias_relu_(x.requires_grad_() + 0, bias, shortcut).sum().backward()
    assert bias.grad.dtype == torch.float32 and x.grad.dtype == torch.bfloat16


def test_arguments_in_other_layouts_and_strides_give_the_same_result():
    x, bias, shortcut = random_arguments()
    expected = changed(x, bias, shortcut)
    assert changed(x, bias, shortcut.contiguous()).equal(expected)
    assert changed(x.contiguous(), bias, shortcut).equal(expected)
    wide = x.repeat_interleave(2, dim=3)
    strided = wide[..., ::2]
    ops_cuda.add_bias_relu_(strided, bias.repeat_interleave(2)[::2], shortcut)
    assert strided.equal(expected)
    assert wide[..., 1::2].equal(x), "only the view is changed"


def test_an_empty_map_stays_empty():
    for shape in ((0, 7, 3, 5), (2, 7, 0, 5)):
        assert changed(*random_arguments(shape=shape)).shape == shape


def test_wrong_arguments_are_named():
    x, bias, shortcut = random_arguments()
    with pytest.raises(ValueError, match=r"x must be \(B, C, H, W\)"):
        ops_cuda.add_bias_relu_(x[0])
    with pytest.raises(ValueError, match=r"bias must be \(7,\); got \(6,\)"):
        ops_cuda.add_bias_relu_(x, bias[:6])
    with pytest.raises(ValueError, match="shortcut must be"):
        ops_cuda.add_bias_relu_(x, bias, shortcut[:1])
    with pytest.raises(ValueError, match="x must be floating point"):
        ops_cuda.add_bias_relu_(x.long())
