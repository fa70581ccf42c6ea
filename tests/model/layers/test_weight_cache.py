"""The cache of folded weights: used while weights stay the same, recomputed when they change."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from model.layers import convolution
from model.layers.convolution import convolve
from tests.model.layers.fast_path import TOLERANCE, fast_path_error, random_maps, random_norm


def sgd_step(conv, norm):
    optimizer = torch.optim.SGD([*conv.parameters(), *norm.parameters()], 0.5)
    norm(conv(random_maps())).square().mean().backward()
    optimizer.step()


def fused_adamw_step(conv, norm):
    optimizer = torch.optim.AdamW([*conv.parameters(), *norm.parameters()], 0.1, fused=True)
    norm(conv(random_maps())).square().mean().backward()
    optimizer.step()


def load_state_dict(conv, norm):
    conv.load_state_dict({"weight": torch.randn_like(conv.weight)})
    norm.load_state_dict(random_norm(type(norm), 12).state_dict() | {"bias": torch.rand(12)})


def load_by_assignment(conv, norm):
    conv.load_state_dict({"weight": torch.randn(12, 8, 3, 3)}, assign=True)


def write_in_inference_mode(conv, norm):
    with torch.inference_mode():
        conv.weight.copy_(torch.randn_like(conv.weight))


def round_to_bfloat16_and_back(conv, norm):
    conv.bfloat16().float()


def move_to_another_device_and_back(conv, norm):
    conv.to("meta")
    conv.to_empty(device="cpu")
    nn.init.normal_(conv.weight)


def change_layout(conv, norm):
    conv.to(memory_format=torch.channels_last)


def update_norm_statistics(conv, norm):
    norm.train()
    norm(conv(random_maps()) * 3)
    norm.eval()


def replace_the_parameter(conv, norm):
    conv.weight = nn.Parameter(torch.randn(12, 8, 3, 3))


def replace_the_data(conv, norm):
    conv.weight.data = torch.randn(12, 8, 3, 3)


@pytest.mark.parametrize(
    "change",
    [
        sgd_step,
        fused_adamw_step,
        load_state_dict,
        load_by_assignment,
        write_in_inference_mode,
        round_to_bfloat16_and_back,
        move_to_another_device_and_back,
        change_layout,
        update_norm_statistics,
        replace_the_parameter,
        replace_the_data,
    ],
)
def test_weights_are_folded_again_after_a_change(change):
    conv, norm = nn.Conv2d(8, 12, 3, padding=1, bias=False), random_norm(nn.BatchNorm2d, 12)
    for _ in range(3):
        assert fast_path_error(random_maps(), conv, norm) < TOLERANCE
        change(conv, norm)
    assert fast_path_error(random_maps(), conv, norm) < TOLERANCE


def test_weights_are_packed_only_once_while_they_stay_the_same(monkeypatch):
    conv, calls = nn.Conv2d(8, 12, 3, padding=1), []
    pack_conv3x3 = convolution.pack_conv3x3

    def record(weight):
        calls.append(1)
        return pack_conv3x3(weight)

    monkeypatch.setattr(convolution, "pack_conv3x3", record)
    with torch.inference_mode():
        for _ in range(3):
            convolve(random_maps(), conv)
    with torch.no_grad():
        convolve(random_maps(), conv)
    assert len(calls) == 1


def test_weights_created_in_inference_mode_are_not_cached():
    with torch.inference_mode():
        conv = nn.Conv2d(8, 12, 3, padding=1)
        expected = conv(random_maps())
        torch.testing.assert_close(convolve(random_maps(), conv), expected, rtol=0, atol=1e-6)
        conv.weight.zero_()
        assert not (convolve(random_maps(), conv) - conv.bias.view(-1, 1, 1)).any()


def test_cached_values_are_not_copied_pickled_or_saved():
    conv, x = nn.Conv2d(8, 12, 3, padding=1), random_maps()
    before = set(conv.__dict__), set(conv.state_dict())
    assert fast_path_error(x, conv) < TOLERANCE
    assert (set(conv.__dict__), set(conv.state_dict())) == before
    buffer = io.BytesIO()
    torch.save(conv, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(conv), torch.load(buffer, weights_only=False)):
        nn.init.normal_(other.weight)
        assert fast_path_error(x, other) < TOLERANCE
        assert fast_path_error(x, conv) < TOLERANCE


def test_threads_can_share_a_layer():
    conv, x = nn.Conv2d(64, 64, 3, padding=1), random_maps(64)

    @torch.inference_mode()
    def run(_):
        return convolve(x, conv, relu=True)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(16)))
    assert all(result.equal(results[0]) for result in results)


def test_weights_that_were_trained_between_two_frozen_phases_are_read_anew():
    # The fused optimizer does not increase versions, and the weights are frozen at each lookup.
    conv, x = nn.Conv2d(8, 12, 3, padding=1).requires_grad_(False), random_maps()
    with torch.no_grad():
        before = convolve(x, conv)
    conv.requires_grad_(True)
    optimizer = torch.optim.SGD(conv.parameters(), lr=1.0, fused=True)
    conv(x).sum().backward()
    optimizer.step()
    conv.requires_grad_(False)
    with torch.no_grad():
        after = convolve(x, conv)
        torch.testing.assert_close(after, conv(x), rtol=1e-4, atol=1e-3)
    assert not after.allclose(before)


def test_an_optimizer_of_other_weights_leaves_cached_values_alone(monkeypatch):
    conv, other = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(2, 2)
    packed, calls = convolution.pack_conv3x3, []
    monkeypatch.setattr(convolution, "pack_conv3x3", lambda w: calls.append(1) or packed(w))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        with torch.no_grad():
            convolve(random_maps(), conv)
        other(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert len(calls) == 1
