"""Convolution with norm, shortcut and ReLU, and its fast path for inference on the CPU.

The fast path is for fp32 without gradients, autocast or a tracer; otherwise layers run as torch
defines them. On the fast path a batch norm is folded once instead of in every forward pass; bias,
shortcut and ReLU are applied while the convolution writes its output; and large 3x3 convolutions
use Winograd's method.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.norm import convolve_and_normalize, fold_norm, is_fixed
from model.layers.weight_cache import cached_from_weights
from ops_cuda import conv3x3_relu, pack_conv3x3

# Below this many 4x4 tiles, reading Winograd's weights, four times as large, costs more than its
# fewer products save. Measured with 256 and 512 channels: 0.7 to 0.9x oneDNN's speed at 6 tiles,
# 1.15x at 16.
MIN_WINOGRAD_TILES = 12


def convolve(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module | None = None,
    shortcut: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return ``relu(norm(conv(x)) + shortcut)``; norm, shortcut and ReLU are optional.

    Args:
        x: (B, C, H, W).
        conv: the convolution, to C_out channels.
        norm: normalizes its output.
        shortcut: (B, C_out, H', W'), added to the output.
        relu: whether to apply a ReLU at the end.

    Returns:
        (B, C_out, H', W').
    """
    if norm is not None and not is_fixed(norm):
        return _add_and_relu(norm(convolve(x, conv)), shortcut, relu)
    if not infers_on_cpu(x) or not _is_plain(conv):
        y = conv(x) if norm is None else convolve_and_normalize(x, conv, norm)
        return _add_and_relu(y, shortcut, relu)
    folded = _fold(conv, norm)
    if folded.winograd is not None and _count_tiles(x) >= MIN_WINOGRAD_TILES:
        relu_now = relu and shortcut is None
        y = conv3x3_relu(x, folded.winograd, folded.bias, conv.out_channels, relu_now)
        return y if shortcut is None else _add_and_relu(y, shortcut, relu)
    return _convolve_fused(x, conv, folded, shortcut, relu)


def infers_on_cpu(x: Tensor) -> bool:
    """Return whether the fast path applies: fp32 on the CPU, no gradients, no tracer."""
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
class _FoldedConv:
    """Weights of a convolution with its norm folded in.

    ``winograd`` holds the packed weights of a 3x3 convolution that Winograd's method can compute.
    """

    weight: Tensor
    bias: Tensor | None
    winograd: Tensor | None


def _is_plain(conv: nn.Conv2d) -> bool:
    # Subclasses and parametrized layers compute their weights in other ways.
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
        and not conv.weight.is_inference()  # has no version counter, so nothing can be cached
    )


def _fold(conv: nn.Conv2d, norm: nn.Module | None) -> _FoldedConv:
    tensors = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    if norm is not None:
        tensors += [*norm.parameters(), *norm.buffers()]

    def compute() -> _FoldedConv:
        weight, bias = (conv.weight, conv.bias) if norm is None else fold_norm(conv, norm)
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        suits_winograd = conv.kernel_size == (3, 3) and geometry == ((1, 1),) * 3 + (1,)
        return _FoldedConv(weight, bias, pack_conv3x3(weight) if suits_winograd else None)

    return cached_from_weights(conv, tensors, getattr(norm, "eps", None), compute)


def _convolve_fused(
    x: Tensor, conv: nn.Conv2d, folded: _FoldedConv, shortcut: Tensor | None, relu: bool
) -> Tensor:
    """Run oneDNN's convolution, shortcut and ReLU in one pass if this torch offers it."""
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    # torch.compile's backend calls these operators; they have no public name.
    fused = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    if fused is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        y = F.conv2d(
            x, folded.weight, folded.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )
        return _add_and_relu(y, shortcut, relu)
    activation = "relu" if relu else None
    if shortcut is None:
        y = fused(x, folded.weight, folded.bias, *geometry, activation or "none", [], "")
    else:
        y = fused.binary(
            x, shortcut, folded.weight, folded.bias, *geometry, "add", 1.0, activation, [], None
        )
    result: Tensor = y
    return result


def _count_tiles(x: Tensor) -> int:
    return len(x) * math.ceil(x.shape[2] / 4) * math.ceil(x.shape[3] / 4)


def _add_and_relu(y: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    if shortcut is not None:
        y = y.add_(shortcut)
    return F.relu_(y) if relu else y
