"""Normalisation layers of the backbone, and convolutions that swallow them where they can."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics and affine parameters never change: an affine map per channel.

    It holds what a ``BatchNorm2d`` holds, under the same names, but as buffers.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (B, C, H, W)."""
        scale, shift = scale_and_shift(self)
        return x * scale.view(-1, 1, 1).to(x.dtype) + shift.view(-1, 1, 1).to(x.dtype)


def make_norm(kind: str, channels: int, eps: float) -> nn.Module:
    """The layer that ``BackboneConfig.norm`` names."""
    match kind:
        case "frozen_bn":
            return FrozenBatchNorm(channels, eps)
        case "batch_norm":
            return nn.BatchNorm2d(channels, eps)
        case "group_norm":
            # 32 groups as in Wu & He 2018, fewer where narrow models do not divide by it.
            return nn.GroupNorm(math.gcd(32, channels), channels, eps)
    raise ValueError(f"norm must be frozen_bn, batch_norm or group_norm; got {kind!r}")


def is_fixed(norm: nn.Module) -> bool:
    """Whether the norm is an affine map per channel that does not depend on its input."""
    return isinstance(norm, FrozenBatchNorm) or (
        isinstance(norm, nn.BatchNorm2d) and not norm.training
    )


def scale_and_shift(norm: FrozenBatchNorm | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The affine map, (C,) and (C,), of a batch norm that uses its stored statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("this batch norm stores no statistics (track_running_stats=False)")
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def convolve_and_normalise(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(convolution(x))``, in one pass where the norm is a fixed affine map.

    Then the map goes into the convolution's weights: two passes over the activations less, in
    training too, since gradients reach the weights through the product.
    """
    if not is_fixed(norm):
        result: Tensor = norm(convolution(x))
        return result
    scale, shift = scale_and_shift(norm)  # type: ignore[arg-type]
    weight = convolution.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, convolution.stride, convolution.padding)
