"""Inputs for the fast path of ``convolve``, and its error against layers in double precision."""

import copy

import torch
import torch.nn.functional as F

from model.layers.convolution import convolve

# Relative to the largest output. Winograd's sums lose about a decimal digit compared to direct ones
# (1e-6).
TOLERANCE = 3e-5


def random_norm(kind, channels):
    """Return a norm layer in eval mode with random statistics and parameters."""
    norm = kind(channels, 1e-5).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm


def random_maps(channels=8, side=24, images=1):
    values = torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(1))
    return values.contiguous(memory_format=torch.channels_last)


def layer_by_layer(x, conv, norm=None, shortcut=None, relu=False):
    """Return what the layers compute one by one in double precision."""
    conv, norm = copy.deepcopy(conv), copy.deepcopy(norm)
    y = conv.double()(x.double())
    y = y if norm is None else norm.double()(y)
    y = y if shortcut is None else y + shortcut
    return F.relu(y) if relu else y


@torch.no_grad()
def fast_path_error(x, conv, *arguments):
    """Return the error of a second call, which hits the cache, relative to the largest output."""
    expected = layer_by_layer(x, conv, *arguments)
    convolve(x, conv, *arguments)
    result = convolve(x, conv, *arguments)
    assert result.is_contiguous(memory_format=torch.channels_last)
    return ((result - expected).abs().max() / expected.abs().max()).item()
