"""Convolution with norm, shortcut and ReLU, in as few passes over the maps as possible.

In training, a fixed norm is folded into the weights, and bias, shortcut and ReLU are one pass after
the convolution. Without gradients, the folded weights are also kept, in the type the convolution
computes in. On the CPU in fp32, bias, shortcut and ReLU are then applied while the convolution
writes its output, and large 3x3 convolutions use Winograd's method. A tracer or compiler sees the
plain layers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.norm import (
    convolve_and_normalize,
    fold_norm,
    fold_scale_and_shift,
    is_fixed,
    scale_and_shift,
)
from model.layers.weight_cache import cached_from_weights
from ops_cuda import add_bias_relu_, conv3x3_relu, pack_conv3x3

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
        return _finish(norm(convolve(x, conv)), None, shortcut, relu)
    if _is_traced() or not _is_plain(conv):
        y = conv(x) if norm is None else convolve_and_normalize(x, conv, norm)
        return _finish(y, None, shortcut, relu)
    if infers_on_cpu(x):
        return _infer_on_cpu(x, conv, norm, shortcut, relu)
    weight, bias = _folded_weights(x, conv, norm)
    if _adds_bias_for_free(x.device):
        bias = None if bias is None else bias.to(weight.dtype)
        return _finish(_convolve(x, conv, weight, bias), None, shortcut, relu)
    return _finish(_convolve(x, conv, weight, None), bias, shortcut, relu)


def infers_on_cpu(x: Tensor) -> bool:
    """Return whether the fast path applies: fp32 on the CPU, no gradients, no tracer."""
    return not (
        _is_traced()
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


def _adds_bias_for_free(device: torch.device) -> bool:
    """Return whether convolutions add a bias while they write their output, as oneDNN does.

    With cuDNN, torch adds it in another pass.
    """
    return device.type == "cpu"


def _is_traced() -> bool:
    return (
        torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


def _is_plain(conv: nn.Conv2d) -> bool:
    # Subclasses and parametrized layers compute their weights in other ways.
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not conv.weight.is_inference()  # has no version counter, so nothing can be cached
    )


def _computed_type(x: Tensor) -> torch.dtype:
    """Return the type in which a convolution of x computes."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _folded_weights(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module | None
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias with the norm folded in; in training, gradients flow through them."""
    layers = [conv] if norm is None else [conv, norm]
    is_trained = any(each.requires_grad for layer in layers for each in layer.parameters())
    if not (is_trained and torch.is_grad_enabled()):
        folded = _fold(conv, norm, _computed_type(x))
        return folded.weight, folded.bias
    if norm is None:
        return conv.weight, conv.bias
    if any(each.requires_grad for each in norm.parameters()):
        return fold_norm(conv, norm)
    tensors = [*norm.parameters(), *norm.buffers()]
    affine = cached_from_weights(norm, tensors, norm.eps, lambda: scale_and_shift(norm))  # type: ignore[arg-type]
    return fold_scale_and_shift(conv, *affine)


def _fold(conv: nn.Conv2d, norm: nn.Module | None, dtype: torch.dtype) -> _FoldedConv:
    tensors = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    if norm is not None:
        tensors += [*norm.parameters(), *norm.buffers()]

    def compute() -> _FoldedConv:
        weight, bias = (conv.weight, conv.bias) if norm is None else fold_norm(conv, norm)
        weight = weight.detach().to(dtype, memory_format=torch.channels_last)
        bias = None if bias is None else bias.detach()
        on_cpu = weight.device.type == "cpu" and dtype == torch.float32
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        suits_winograd = conv.kernel_size == (3, 3) and geometry == ((1, 1),) * 3 + (1,)
        packed = pack_conv3x3(weight) if on_cpu and suits_winograd else None
        return _FoldedConv(weight, bias, packed)

    return cached_from_weights(conv, tensors, (getattr(norm, "eps", None), dtype), compute)


def _infer_on_cpu(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, shortcut: Tensor | None, relu: bool
) -> Tensor:
    folded = _fold(conv, norm, torch.float32)
    if folded.winograd is not None and _count_tiles(x) >= MIN_WINOGRAD_TILES:
        relu_now = relu and shortcut is None
        y = conv3x3_relu(x, folded.winograd, folded.bias, conv.out_channels, relu_now)
        return y if shortcut is None else _finish(y, None, shortcut, relu)
    return _convolve_fused(x, conv, folded, shortcut, relu)


def _convolve_fused(
    x: Tensor, conv: nn.Conv2d, folded: _FoldedConv, shortcut: Tensor | None, relu: bool
) -> Tensor:
    """Run oneDNN's convolution, shortcut and ReLU in one pass if this torch offers it."""
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    # torch.compile's backend calls these operators; they have no public name.
    fused = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    if fused is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        y = _convolve(x, conv, folded.weight, folded.bias)
        return _finish(y, None, shortcut, relu)
    activation = "relu" if relu else None
    if shortcut is None:
        y = fused(x, folded.weight, folded.bias, *geometry, activation or "none", [], "")
    else:
        y = fused.binary(
            x, shortcut, folded.weight, folded.bias, *geometry, "add", 1.0, activation, [], None
        )
    result: Tensor = y
    return result


def _convolve(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _count_tiles(x: Tensor) -> int:
    return len(x) * math.ceil(x.shape[2] / 4) * math.ceil(x.shape[3] / 4)


def _finish(y: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool) -> Tensor:
    """Add bias and shortcut and apply the ReLU, in place and in one pass if nothing traces."""
    if bias is None and shortcut is None:
        return F.relu_(y) if relu else y
    if not _is_traced():
        return add_bias_relu_(y, bias, shortcut, relu)
    y = y if shortcut is None else y.add_(shortcut)
    return F.relu_(y) if relu else y
