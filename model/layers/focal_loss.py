"""The focal loss of very many anchors, most of them background, in little memory.

Shapes as in ``model.structures``.
Source: Lin et al. 2017, "Focal loss for dense object detection", section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits computed at once. With fewer, launches take longer than the arithmetic on a GPU; with more,
# temporary tensors take more memory.
CHUNK = 1 << 24


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    alpha: float,
    gamma: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the sum of the focal losses of all pairs of anchor and class.

    With p the probability of a class, the positive class of an anchor has the loss
    -alpha (1 - p)**gamma log(p), every other class -(1 - alpha) p**gamma log(1 - p). Besides the
    logits and their gradient, memory is a few times CHUNK logits or those of one image: no one-hot
    targets are made, and only the logits are saved for the backward pass.

    Args:
        logits: (B, A, K), any float type; the loss is computed in float32 or better.
        labels: (B, A) int64: class 1..K, 0 for background, -1 for ignored anchors.
        alpha: weight of the positive class.
        gamma: exponent that reduces the loss of well-classified pairs.
        class_weights: (K + 1,) factor of the positive class's loss by label; None weighs all alike.

    Returns:
        Scalar, differentiable once with respect to the logits. No device sync.
    """
    total: Tensor = _FocalLoss.apply(logits, labels, alpha, gamma, class_weights)
    return total


class _FocalLoss(torch.autograd.Function):
    """Negative-class loss everywhere, then corrected for each anchor's positive class.

    Up to its weight, the positive-class loss at x is the negative-class loss at -x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        alpha: float,
        gamma: float,
        class_weights: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(logits, labels, class_weights)
        ctx.alpha, ctx.gamma = alpha, gamma
        losses = []
        images = _images_per_chunk(logits)
        for part, label in zip(
            torch.split(logits, images), torch.split(labels, images), strict=True
        ):
            x = _upcast(part)
            positive = x.gather(2, _positive_column(label)).squeeze(2)
            correction = _alphas(label, alpha, class_weights) * _negative_loss(-positive, gamma)
            correction = correction - (1 - alpha) * _negative_loss(positive, gamma)
            loss = (1 - alpha) * _negative_loss(x, gamma).sum(2)
            loss = loss + torch.where(label > 0, correction, 0.0)
            losses.append(torch.where(label >= 0, loss, 0.0).sum())
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, labels, class_weights = ctx.saved_tensors
        alpha, gamma = ctx.alpha, ctx.gamma
        gradient = torch.empty_like(logits)
        images = _images_per_chunk(logits)
        parts = (torch.split(each, images) for each in (logits, labels, gradient))
        for part, label, output in zip(*parts, strict=True):
            x = _upcast(part)
            positive = x.gather(2, _positive_column(label))
            alphas = _alphas(label[..., None], alpha, class_weights)
            correction = -alphas * _negative_slope(-positive, gamma)
            correction = correction - (1 - alpha) * _negative_slope(positive, gamma)
            weight = torch.where(label >= 0, (1 - alpha) * upstream, 0.0)
            slope = _negative_slope(x, gamma).mul_(weight[..., None])
            correction = torch.where(label[..., None] > 0, correction * upstream, 0.0)
            output.copy_(slope.scatter_add_(2, _positive_column(label), correction))
        return gradient, None, None, None, None


def _images_per_chunk(logits: Tensor) -> int:
    """Return how many images to compute at once: on the coarse levels of a pyramid, all."""
    return max(1, CHUNK // max(1, logits[:1].numel()))


def _upcast(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _positive_column(label: Tensor) -> Tensor:
    """Return the column of each anchor's class, (B, A, 1); 0 for background and ignored anchors."""
    return (label - 1).clamp(min=0)[..., None]


def _alphas(label: Tensor, alpha: float, class_weights: Tensor | None) -> float | Tensor:
    """Return the weight of each anchor's positive class, of the shape of ``label``."""
    return alpha if class_weights is None else alpha * class_weights[label.clamp(min=0)]


def _negative_loss(x: Tensor, gamma: float) -> Tensor:
    """Return p**gamma * -log(1 - p) with p = sigmoid(x)."""
    return x.sigmoid().pow_(gamma).mul_(F.softplus(x))


def _negative_slope(x: Tensor, gamma: float) -> Tensor:
    """Return the derivative of the negative loss: p**gamma * (gamma (1 - p) -log(1 - p) + p)."""
    p = x.sigmoid()
    slope = F.softplus(x).mul_(gamma).mul_(1 - p).add_(p)
    return slope.mul_(p.pow_(gamma))
