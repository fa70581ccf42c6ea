import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.layers import convolution
from model.layers.convolution import convolve, infers_on_cpu
from model.layers.norm import FrozenBatchNorm

# Of the largest output; Winograd's sums lose about a decimal digit to direct ones (1e-6).
TOLERANCE = 3e-5


def norm_layer(kind, channels):
    norm = kind(channels).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm


def maps(channels=8, side=24, images=1):
    values = torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(1))
    return values.contiguous(memory_format=torch.channels_last)


def expected(x, layer, norm=None, shortcut=None, relu=False):
    y = layer.double()(x.double())
    y = y if norm is None else norm.double()(y)
    y = y if shortcut is None else y + shortcut
    layer.float()
    if norm is not None:
        norm.float()
    return F.relu(y) if relu else y


@torch.no_grad()
def error(x, layer, *arguments):
    """Of a second run, which uses what the first one kept; relative to the largest output."""
    wanted = expected(x, copy.deepcopy(layer), *copy.deepcopy(arguments))
    convolve(x, layer, *arguments)
    found = convolve(x, layer, *arguments)
    assert found.is_contiguous(memory_format=torch.channels_last)
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("norm", [None, FrozenBatchNorm, nn.BatchNorm2d])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_one_call_gives_what_the_layers_give_in_turn(norm, kernel, stride, relu, with_shortcut):
    layer = nn.Conv2d(8, 12, kernel, stride, padding=kernel // 2, bias=norm is None)
    x = maps()
    shortcut = torch.randn_like(layer(x)).detach() if with_shortcut else None
    assert error(x, layer, norm and norm_layer(norm, 12), shortcut, relu) < TOLERANCE


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(12, track_running_stats=False), nn.GroupNorm(3, 12)]
)
def test_norms_that_depend_on_their_input_are_not_folded(norm):
    assert error(maps(), nn.Conv2d(8, 12, 3, padding=1), norm, None, True) < TOLERANCE


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
def test_unusual_convolutions_are_right_too(settings, norm, bias):
    layer = nn.Conv2d(8, 12, 3, bias=bias, **settings)
    norm = norm and norm_layer(norm, 12)
    assert error(maps(), layer, norm) < TOLERANCE
    wanted = expected(maps(), copy.deepcopy(layer), copy.deepcopy(norm))
    # with gradients, where the norm goes into the weights at every call
    found = convolve(maps(), layer, norm)
    assert (found - wanted).abs().max() / wanted.abs().max() < TOLERANCE


def test_an_older_torch_without_fused_convolutions_gives_the_same(monkeypatch):
    layer, x = nn.Conv2d(8, 12, 1), maps()
    shortcut = torch.randn(1, 12, 24, 24).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert error(x, layer, None, shortcut, True) < TOLERANCE


def test_large_maps_take_winograd_and_small_ones_do_not(monkeypatch):
    taken = []
    whole = convolution.conv3x3_relu
    monkeypatch.setattr(
        convolution, "conv3x3_relu", lambda x, *rest: taken.append(x.shape[-1]) or whole(x, *rest)
    )
    layer = nn.Conv2d(8, 12, 3, padding=1)
    for side in (8, 13):
        assert error(maps(side=side), layer) < TOLERANCE
    assert set(taken) == {13}


def test_no_roi_is_no_special_case():
    layer = nn.Conv2d(8, 12, 3, padding=1)
    with torch.inference_mode():
        assert convolve(maps()[:0], layer, relu=True).shape == (0, 12, 24, 24)


def test_with_gradients_the_layers_run_as_ever():
    layer, x = nn.Conv2d(8, 12, 3, padding=1), maps().requires_grad_()
    assert not infers_on_cpu(x)
    convolve(x, layer, relu=True).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None


def test_autocast_and_compilers_see_the_layers_of_torch():
    layer, x = nn.Conv2d(8, 12, 3, padding=1), maps()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, layer).dtype == torch.bfloat16
    with torch.no_grad():
        graph = torch.export.export(_Wrapped(layer), (x,)).graph_module
    assert not any("ops_cuda" in str(node.target) for node in graph.graph.nodes)


class _Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return convolve(x, self.layer, relu=True)


def train_a_step(layer, norm):
    optimizer = torch.optim.SGD([*layer.parameters(), *norm.parameters()], 0.5)
    norm(layer(maps())).square().mean().backward()
    optimizer.step()


def train_a_fused_step(layer, norm):
    optimizer = torch.optim.AdamW([*layer.parameters(), *norm.parameters()], 0.1, fused=True)
    norm(layer(maps())).square().mean().backward()
    optimizer.step()


def load_others(layer, norm):
    layer.load_state_dict({"weight": torch.randn_like(layer.weight)})
    norm.load_state_dict(norm_layer(type(norm), 12).state_dict() | {"bias": torch.rand(12)})


def load_by_assignment(layer, norm):
    layer.load_state_dict({"weight": torch.randn(12, 8, 3, 3)}, assign=True)


def load_in_inference_mode(layer, norm):
    with torch.inference_mode():
        layer.weight.copy_(torch.randn_like(layer.weight))


def round_to_half_and_back(layer, norm):
    layer.bfloat16().float()


def move_and_return(layer, norm):
    layer.to("meta")
    layer.to_empty(device="cpu")
    nn.init.normal_(layer.weight)


def change_layout(layer, norm):
    layer.to(memory_format=torch.channels_last)


def see_other_statistics(layer, norm):
    norm.train()
    norm(layer(maps()) * 3)
    norm.eval()


def replace_the_parameter(layer, norm):
    layer.weight = nn.Parameter(torch.randn(12, 8, 3, 3))


def replace_the_data(layer, norm):
    layer.weight.data = torch.randn(12, 8, 3, 3)


@pytest.mark.parametrize(
    "change",
    [
        train_a_step,
        train_a_fused_step,
        load_others,
        load_by_assignment,
        load_in_inference_mode,
        round_to_half_and_back,
        move_and_return,
        change_layout,
        see_other_statistics,
        replace_the_parameter,
        replace_the_data,
    ],
)
def test_what_was_folded_is_folded_again_when_weights_change(change):
    layer, norm = nn.Conv2d(8, 12, 3, padding=1, bias=False), norm_layer(nn.BatchNorm2d, 12)
    for _ in range(3):
        assert error(maps(), layer, norm) < TOLERANCE
        change(layer, norm)
    assert error(maps(), layer, norm) < TOLERANCE


def test_nothing_is_folded_again_while_weights_stay(monkeypatch):
    layer, packings = nn.Conv2d(8, 12, 3, padding=1), []
    whole = convolution.pack_conv3x3
    monkeypatch.setattr(
        convolution, "pack_conv3x3", lambda weight: packings.append(1) or whole(weight)
    )
    with torch.inference_mode():
        for _ in range(3):
            convolve(maps(), layer)
    with torch.no_grad():
        convolve(maps(), layer)
    assert len(packings) == 1


def test_weights_born_in_inference_mode_work():
    with torch.inference_mode():
        layer = nn.Conv2d(8, 12, 3, padding=1)
        expected = layer(maps())
        torch.testing.assert_close(convolve(maps(), layer), expected, rtol=0, atol=1e-6)
        layer.weight.zero_()
        assert not (convolve(maps(), layer) - layer.bias.view(-1, 1, 1)).any()


def test_what_is_kept_goes_into_no_copy_pickle_or_state():
    layer, x = nn.Conv2d(8, 12, 3, padding=1), maps()
    before = set(layer.__dict__), set(layer.state_dict())
    assert error(x, layer) < TOLERANCE
    assert (set(layer.__dict__), set(layer.state_dict())) == before
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        nn.init.normal_(other.weight)
        assert error(x, other) < TOLERANCE
        assert error(x, layer) < TOLERANCE


def test_threads_may_share_a_layer():
    layer, x = nn.Conv2d(64, 64, 3, padding=1), maps(64)

    @torch.inference_mode()
    def run(_):
        return convolve(x, layer, relu=True)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(16)))
    assert all(result.equal(results[0]) for result in results)
