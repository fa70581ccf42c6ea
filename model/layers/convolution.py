"""Layers of the network, and how inference on the CPU runs them faster.

Wherever gradients, another device or type, autocast or a tracer are at work, layers run as torch
has them. Otherwise batch norm is folded once instead of at every forward, bias, shortcut and ReLU
are applied where the convolution writes its output, and large 3x3 convolutions are Winograd's.

Shapes: B images, C channels in, O out, H W of the map.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.norm import convolve_and_normalise, fold_norm, is_fixed
from model.layers.weight_cache import derived
from ops_cuda import conv3x3_relu, pack_conv3x3

# Tiles of 4 x 4 below which reading Winograd's fourfold weights outweighs its fewer products:
# measured, 256 and 512 channels, 0.7 to 0.9 times oneDNN's speed at 6 tiles, 1.15 at 16.
FEWEST_TILES = 12


def convolve(
    x: Tensor,
    layer: nn.Conv2d,
    norm: nn.Module | None = None,
    shortcut: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """``relu(norm(layer(x)) + shortcut)``, each but the layer where wanted.

    Args:
        x: (B, C, H, W).
        layer: the convolution.
        norm: what normalises its output.
        shortcut: (B, O, H', W'), added to the output.
        relu: whether values below zero become zero.

    Returns:
        (B, O, H', W').
    """
    if norm is not None and not is_fixed(norm):
        return _finish(norm(convolve(x, layer)), shortcut, relu)
    if not infers_on_cpu(x) or not _is_plain(layer):
        y = layer(x) if norm is None else convolve_and_normalise(x, layer, norm)
        return _finish(y, shortcut, relu)
    folded = _fold(layer, norm)
    if folded.packed is not None and _tiles(x) >= FEWEST_TILES:
        last = shortcut is None
        y = conv3x3_relu(x, folded.packed, folded.bias, layer.out_channels, relu and last)
        return y if last else _finish(y, shortcut, relu)
    return _convolve_fused(x, layer, folded, shortcut, relu)


def infers_on_cpu(x: Tensor) -> bool:
    """Whether the faster path serves x: float32 numbers on the CPU, no gradient, no tracer."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        or torch.is_grad_enabled()
        or type(x) is not Tensor
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
    )


@dataclass(frozen=True)
class _Folded:
    """A convolution's weights after its norm's affine map."""

    weight: Tensor
    bias: Tensor | None
    packed: Tensor | None  # of a 3x3 convolution that Winograd's method serves


def _is_plain(layer: nn.Conv2d) -> bool:
    # subclasses and parametrised layers compute their weight in ways of their own
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.dtype == torch.float32
        and layer.weight.device.type == "cpu"
        and not layer.weight.is_inference()  # nothing could be kept of it
    )


def _fold(layer: nn.Conv2d, norm: nn.Module | None) -> _Folded:
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    if norm is not None:
        tensors += [*norm.parameters(), *norm.buffers()]
    return derived(layer, tensors, getattr(norm, "eps", None), lambda: _make_folded(layer, norm))


def _make_folded(layer: nn.Conv2d, norm: nn.Module | None) -> _Folded:
    weight, bias = (layer.weight, layer.bias) if norm is None else fold_norm(layer, norm)
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    unit = (layer.stride, layer.padding, layer.dilation, layer.groups) == ((1, 1),) * 3 + (1,)
    packed = pack_conv3x3(weight) if unit and layer.kernel_size == (3, 3) else None
    return _Folded(weight, bias, packed)


def _convolve_fused(
    x: Tensor, layer: nn.Conv2d, folded: _Folded, shortcut: Tensor | None, relu: bool
) -> Tensor:
    """OneDNN's convolution, shortcut and ReLU in one pass where this torch offers that."""
    geometry = (layer.padding, layer.stride, layer.dilation, layer.groups)
    # torch.compile's own backend calls these; they have no public name
    fused = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    if fused is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        y = F.conv2d(
            x, folded.weight, folded.bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        return _finish(y, shortcut, relu)
    after = "relu" if relu else None
    if shortcut is None:
        y = fused(x, folded.weight, folded.bias, *geometry, after or "none", [], "")
    else:
        y = fused.binary(
            x, shortcut, folded.weight, folded.bias, *geometry, "add", 1.0, after, [], None
        )
    result: Tensor = y
    return result


def _tiles(x: Tensor) -> int:
    return len(x) * math.ceil(x.shape[2] / 4) * math.ceil(x.shape[3] / 4)


def _finish(y: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    if shortcut is not None:
        y = y.add_(shortcut)
    return F.relu_(y) if relu else y
