"""The focal loss of very many anchors, most of them background, in little memory.

Shapes: B images, A anchors of an image, K classes.
Source: Lin et al. 2017, "Focal loss for dense object detection", section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """The sum of the focal losses of all pairs of anchor and class.

    With p the probability of a class, a pair that is true loses -alpha (1 - p)**gamma log(p), one
    that is not -(1 - alpha) p**gamma log(1 - p). Beside logits and gradient there are never more
    than a few times the numbers of one image: there is no matrix of targets, and nothing but the
    logits is kept for the backward pass.

    Args:
        logits: (B, A, K), any float type; computed in float32 at least.
        labels: (B, A) int64: the class 1..K, 0 for none of them, -1 where it does not count.
        alpha: weight of what is true.
        gamma: how much less counts what is known well.

    Returns:
        Scalar, differentiable once by the logits; nothing waits for the device.
    """
    total: Tensor = _FocalLoss.apply(logits, labels, alpha, gamma)
    return total


class _FocalLoss(torch.autograd.Function):
    """All pairs as if they were untrue, and a correction for each anchor's own class.

    What is true at x loses as what is untrue at -x, but for the weight.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.alpha, ctx.gamma = alpha, gamma
        losses = []
        for image, label in zip(logits, labels, strict=True):
            x = _precise(image)
            own = x.gather(1, _own_class(label)).squeeze(1)
            correction = alpha * _untrue(-own, gamma) - (1 - alpha) * _untrue(own, gamma)
            loss = (1 - alpha) * _untrue(x, gamma).sum(1)
            loss = loss + torch.where(label > 0, correction, 0.0)
            losses.append(torch.where(label >= 0, loss, 0.0).sum())
        return torch.stack(losses).sum() if losses else _precise(logits).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels = ctx.saved_tensors
        alpha, gamma = ctx.alpha, ctx.gamma
        gradient = torch.empty_like(logits)
        for image, label, place in zip(logits, labels, gradient, strict=True):
            x = _precise(image)
            own = x.gather(1, _own_class(label))
            correction = -alpha * _slope(-own, gamma) - (1 - alpha) * _slope(own, gamma)
            weight = torch.where(label >= 0, (1 - alpha) * upstream, 0.0)
            slope = _slope(x, gamma).mul_(weight[:, None])
            correction = torch.where(label[:, None] > 0, correction * upstream, 0.0)
            place.copy_(slope.scatter_add_(1, _own_class(label), correction))
        return gradient, None, None, None


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _own_class(label: Tensor) -> Tensor:
    """The column of each anchor's class, (A, 1); 0 where it has none."""
    return (label - 1).clamp(min=0)[:, None]


def _untrue(x: Tensor, gamma: float) -> Tensor:
    """The loss p**gamma * -log(1 - p), p = sigmoid(x), of what is not true."""
    return x.sigmoid().pow_(gamma).mul_(F.softplus(x))


def _slope(x: Tensor, gamma: float) -> Tensor:
    """The derivative of :func:`_untrue`: p**gamma * (gamma * (1 - p) * -log(1 - p) + p)."""
    p = x.sigmoid()
    slope = F.softplus(x).mul_(gamma).mul_(1 - p).add_(p)
    return slope.mul_(p.pow_(gamma))
