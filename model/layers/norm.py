"""Normalization layers, and folding of fixed norms into convolutions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.config.conventions import NORM_EPSILON


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and affine parameters: an affine map per channel.

    Its buffers have the names of the parameters and buffers of ``BatchNorm2d``.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, H, W)."""
        scale, shift = scale_and_shift(self)
        return x * scale.view(-1, 1, 1).to(x.dtype) + shift.view(-1, 1, 1).to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` without its check of the batch size, which tracing cannot evaluate."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, H, W) or (R, C)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the batches of all GPUs; on a CPU, which torch does not support, of each."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, H, W); in training, every worker must take part."""
        return _BatchNorm.forward(self, x) if x.device.type == "cpu" else super().forward(x)


def make_norm(kind: str, channels: int, eps: float = NORM_EPSILON) -> nn.Module:
    """Return the norm layer of a ``norm`` setting other than "none".

    Args:
        kind: frozen_bn, batch_norm, sync_batch_norm or group_norm.
        channels: channels of its input.
        eps: epsilon.

    Raises:
        ValueError: there is no such kind.
    """
    match kind:
        case "frozen_bn":
            return FrozenBatchNorm(channels, eps)
        case "batch_norm":
            return nn.BatchNorm2d(channels, eps)
        case "sync_batch_norm":
            return SyncBatchNorm(channels, eps)
        case "group_norm":
            # 32 groups as in Wu & He 2018, fewer if the channels do not divide by 32.
            return GroupNorm(math.gcd(32, channels), channels, eps)
    raise ValueError(
        f"norm must be frozen_bn, batch_norm, sync_batch_norm or group_norm; got {kind!r}"
    )


def make_norms(kind: str, channels: int, count: int) -> nn.ModuleList:
    """Return one norm for each of ``count`` layers of the pyramid or a head; none if "none".

    Convolutions followed by a norm have no bias, as in torchvision, detectron2 and
    maskrcnn-benchmark.
    """
    return nn.ModuleList(make_norm(kind, channels) for _ in range(0 if kind == "none" else count))


def is_fixed(norm: nn.Module) -> bool:
    """Return whether the norm is an affine map per channel that does not depend on its input."""
    return isinstance(norm, FrozenBatchNorm) or (isinstance(norm, _BatchNorm) and not norm.training)


def scale_and_shift(norm: FrozenBatchNorm | _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the affine map, (C,) and (C,), of a batch norm that uses its stored statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("this batch norm stores no statistics (track_running_stats=False)")
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals ``norm(conv(x))`` for a fixed norm."""
    return fold_scale_and_shift(conv, *scale_and_shift(norm))  # type: ignore[arg-type]


def fold_scale_and_shift(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals ``conv(x) * scale + shift``.

    Args:
        conv: to C channels.
        scale: (C,).
        shift: (C,).
    """
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], shift


def convolve_and_normalize(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Return ``norm(conv(x))``, in one pass if the norm is fixed.

    A fixed norm is folded into the weights, which saves two passes over the activations. Gradients
    reach the weights through the product, so training can do it too.
    """
    if not is_fixed(norm) or conv.padding_mode != "zeros":
        result: Tensor = norm(conv(x))
        return result
    weight, bias = fold_norm(conv, norm)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
