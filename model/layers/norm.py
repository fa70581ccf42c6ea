"""Normalisation layers, and convolutions that swallow them where they can."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the norms in pyramid and heads: no source has another; the backbone's is a convention.
HEAD_EPSILON = 1e-5


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


class GroupNorm(nn.GroupNorm):
    """Torch's, without its question how many there are to normalise: of ROIs no tracer knows."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (B, C, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(kind: str, channels: int, eps: float) -> nn.Module:
    """The layer that a ``norm`` setting names, other than none."""
    match kind:
        case "frozen_bn":
            return FrozenBatchNorm(channels, eps)
        case "batch_norm":
            return nn.BatchNorm2d(channels, eps)
        case "group_norm":
            # 32 groups as in Wu & He 2018, fewer where narrow models do not divide by it.
            return GroupNorm(math.gcd(32, channels), channels, eps)
    raise ValueError(f"norm must be frozen_bn, batch_norm or group_norm; got {kind!r}")


def make_norms(kind: str, channels: int, count: int) -> nn.ModuleList:
    """A norm for each of ``count`` layers of the pyramid or a head; empty where ``kind`` is none.

    Their convolutions have no bias then, as torchvision's, detectron2's and maskrcnn-benchmark's
    have none.
    """
    wanted = 0 if kind == "none" else count
    return nn.ModuleList(make_norm(kind, channels, HEAD_EPSILON) for _ in range(wanted))


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


def fold_norm(layer: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what ``layer`` and its fixed norm do."""
    scale, shift = scale_and_shift(norm)  # type: ignore[arg-type]
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    return layer.weight * scale[:, None, None, None], shift


def convolve_and_normalise(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(convolution(x))``, in one pass where the norm is a fixed affine map.

    Then the map goes into the convolution's weights: two passes over the activations less, in
    training too, since gradients reach the weights through the product.
    """
    if not is_fixed(norm) or convolution.padding_mode != "zeros":
        result: Tensor = norm(convolution(x))
        return result
    weight, bias = fold_norm(convolution, norm)
    return F.conv2d(
        x,
        weight,
        bias,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )
