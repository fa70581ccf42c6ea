import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.layers import convolution
from model.layers.convolution import convolve, infers_on_cpu
from model.layers.norm import FrozenBatchNorm
from tests.model.layers.fast_path import (
    TOLERANCE,
    fast_path_error,
    layer_by_layer,
    random_maps,
    random_norm,
)


@pytest.mark.parametrize("norm", [None, FrozenBatchNorm, nn.BatchNorm2d])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_one_call_equals_the_layers_one_by_one(norm, kernel, stride, relu, with_shortcut):
    conv = nn.Conv2d(8, 12, kernel, stride, padding=kernel // 2, bias=norm is None)
    x = random_maps()
    shortcut = torch.randn_like(conv(x)).detach() if with_shortcut else None
    assert fast_path_error(x, conv, norm and random_norm(norm, 12), shortcut, relu) < TOLERANCE


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(12, track_running_stats=False), nn.GroupNorm(3, 12)]
)
def test_norms_that_depend_on_their_input_are_not_folded(norm):
    conv = nn.Conv2d(8, 12, 3, padding=1)
    assert fast_path_error(random_maps(), conv, norm, None, True) < TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": 4},
        {"dilation": 2, "padding": 2},
        {"groups": 2, "dilation": 2, "padding": 2, "stride": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": (1, 0)},
    ],
)
@pytest.mark.parametrize("norm", [None, FrozenBatchNorm, nn.BatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
def test_unusual_convolutions_equal_the_layers_one_by_one(settings, norm, bias):
    conv = nn.Conv2d(8, 12, 3, bias=bias, **settings)
    norm = norm and random_norm(norm, 12)
    assert fast_path_error(random_maps(), conv, norm) < TOLERANCE
    expected = layer_by_layer(random_maps(), conv, norm)
    # With gradients the norm is folded in every call.
    result = convolve(random_maps(), conv, norm)
    assert (result - expected).abs().max() / expected.abs().max() < TOLERANCE


def test_a_torch_without_fused_convolutions_computes_the_same(monkeypatch):
    conv, x = nn.Conv2d(8, 12, 1), random_maps()
    shortcut = torch.randn(1, 12, 24, 24).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fast_path_error(x, conv, None, shortcut, True) < TOLERANCE


def test_large_maps_use_winograd_and_small_ones_do_not(monkeypatch):
    sides = []
    conv3x3_relu = convolution.conv3x3_relu

    def record(x, *rest):
        sides.append(x.shape[-1])
        return conv3x3_relu(x, *rest)

    monkeypatch.setattr(convolution, "conv3x3_relu", record)
    conv = nn.Conv2d(8, 12, 3, padding=1)
    for side in (8, 13):
        assert fast_path_error(random_maps(side=side), conv) < TOLERANCE
    assert set(sides) == {13}


def test_an_empty_batch_gives_an_empty_output():
    conv = nn.Conv2d(8, 12, 3, padding=1)
    with torch.inference_mode():
        assert convolve(random_maps()[:0], conv, relu=True).shape == (0, 12, 24, 24)


def test_the_fast_path_is_not_taken_with_gradients():
    conv, x = nn.Conv2d(8, 12, 3, padding=1), random_maps().requires_grad_()
    assert not infers_on_cpu(x)
    convolve(x, conv, relu=True).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None


def test_the_fast_path_is_not_taken_under_autocast_or_a_compiler():
    conv, x = nn.Conv2d(8, 12, 3, padding=1), random_maps()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, conv).dtype == torch.bfloat16
    with torch.no_grad():
        graph = torch.export.export(_Wrapped(conv), (x,)).graph_module
    assert not any("ops_cuda" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize("norm", [None, FrozenBatchNorm, nn.BatchNorm2d])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize("bias_is_free", [True, False], ids=["cpu", "as_on_cuda"])
def test_training_equals_the_layers_one_by_one(
    monkeypatch, norm, relu, with_shortcut, bias_is_free
):
    monkeypatch.setattr(convolution, "_adds_bias_for_free", lambda device: bias_is_free)
    conv = nn.Conv2d(8, 12, 3, padding=1, bias=norm is None).double()
    norm = norm and random_norm(norm, 12).double()
    x = random_maps().double().requires_grad_()
    shortcut = torch.randn(1, 12, 24, 24).double().requires_grad_() if with_shortcut else None
    inputs = [x, *conv.parameters(), *(norm.parameters() if norm else ())]
    inputs += [shortcut] if with_shortcut else []
    result = convolve(x, conv, norm, shortcut, relu)
    y = conv(x) if norm is None else norm(conv(x))
    y = y + shortcut if with_shortcut else y
    expected = y.relu() if relu else y
    torch.testing.assert_close(result, expected)
    weights = torch.randn_like(expected)
    actual_gradients = torch.autograd.grad(result, inputs, weights)
    torch.testing.assert_close(actual_gradients, torch.autograd.grad(expected, inputs, weights))


@pytest.mark.parametrize("bias_is_free", [True, False], ids=["cpu", "as_on_cuda"])
def test_inference_in_half_precision_keeps_weights_in_that_type(monkeypatch, bias_is_free):
    monkeypatch.setattr(convolution, "_adds_bias_for_free", lambda device: bias_is_free)
    conv, norm = nn.Conv2d(8, 12, 3, padding=1, bias=False), random_norm(FrozenBatchNorm, 12)
    x, casts = random_maps(), []
    with torch.no_grad():
        expected = norm(conv(x)).relu()
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16), CountedCasts(casts):
                result = convolve(x.bfloat16(), conv, norm, relu=True)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0.03, atol=0.03)
    # The second call casts at most the bias.
    assert casts.count(conv.weight.shape) == 1


def test_frozen_layers_are_folded_once_and_trained_ones_after_every_step():
    frozen, trained = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
    frozen.requires_grad_(False)
    norms = [random_norm(FrozenBatchNorm, 8) for _ in range(2)]
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    x, folds = random_maps(), []
    for _ in range(3):
        with CountedProducts(folds):
            y = convolve(convolve(x, frozen, norms[0], relu=True), trained, norms[1])
        expected = norms[1](trained(norms[0](frozen(x)).relu()))
        torch.testing.assert_close(y, expected)
        y.sum().backward()
        optimizer.step()
    # The weights of one frozen layer once, those of the trained layer three times.
    assert folds.count(frozen.weight.shape) == 4


class CountedProducts(TorchDispatchMode):
    """Record the shapes of all elementwise products."""

    operators = (torch.ops.aten.mul.Tensor,)

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.operators:
            self.shapes.append(args[0].shape)
        return function(*args, **(kwargs or {}))


class CountedCasts(CountedProducts):
    """Record the shapes of all conversions to another type."""

    operators = (torch.ops.aten._to_copy.default,)


class _Wrapped(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return convolve(x, self.conv, relu=True)
