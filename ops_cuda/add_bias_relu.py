"""What follows a convolution, in place and in one pass: bias, shortcut and ReLU.

Shapes: B images, C channels, H W map.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops_cuda.checks import require_floating, require_one_device
from ops_cuda.library import compiled_for, lacks_type
from ops_cuda.registration import register_fake


def add_bias_relu_(
    x: Tensor, bias: Tensor | None = None, shortcut: Tensor | None = None, relu: bool = True
) -> Tensor:
    """Change x in place to ``relu(x + bias + shortcut)``; bias, shortcut and ReLU are optional.

    Separate operators would read and write the whole map once each. On CUDA, half types are summed
    in float32 and rounded once.

    Args:
        x: (B, C, H, W) float, the output of a convolution or a norm.
        bias: (C,) float, of any floating type.
        shortcut: (B, C, H, W), converted to the type and memory layout of x.
        relu: whether to replace negative values by zero; NaN stays NaN.

    Returns:
        x. Gradients flow to all tensors; that of x needs no copy of the map before the change.

    Raises:
        ValueError: shapes or devices are not as above.
    """
    _check(x, bias, shortcut)
    shortcut = None if shortcut is None else shortcut.to(x.dtype)
    if lacks_type(x) or not compiled_for("add_bias_relu_", x.device) or not _is_dense(x):
        return add_bias_relu__reference(x, bias, shortcut, relu)
    bias = None if bias is None else bias.to(torch.promote_types(x.dtype, torch.float32))
    result: Tensor = _AddBiasRelu.apply(x, bias, shortcut, relu)
    return result


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _check(x: Tensor, bias: Tensor | None, shortcut: Tensor | None) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W); got {tuple(x.shape)}")
    require_floating("x", x)
    given = {"x": x}
    if bias is not None:
        if bias.shape != x.shape[1:2]:
            raise ValueError(f"bias must be ({x.shape[1]},); got {tuple(bias.shape)}")
        require_floating("bias", bias)
        given["bias"] = bias
    if shortcut is not None:
        if shortcut.shape != x.shape:
            raise ValueError(
                f"shortcut must be {tuple(x.shape)}, like x; got {tuple(shortcut.shape)}"
            )
        given["shortcut"] = shortcut
    require_one_device(**given)


class _AddBiasRelu(torch.autograd.Function):
    """The compiled operator with its gradient; torch registers none for operators in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool
    ) -> Tensor:
        torch.ops.ops_cuda.add_bias_relu_(x, bias, shortcut, relu)
        ctx.mark_dirty(x)
        ctx.relu, ctx.bias_type = relu, None if bias is None else bias.dtype
        # The next layer keeps the result anyway; it tells which values the ReLU let through.
        ctx.save_for_backward(*([x] if relu else []))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.relu:
            (result,) = ctx.saved_tensors
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        of_bias = None
        if ctx.needs_input_grad[1]:
            of_bias = gradient.sum((0, 2, 3), dtype=ctx.bias_type)
        return gradient, of_bias, gradient if ctx.needs_input_grad[2] else None, None


@register_fake("add_bias_relu_")
def _add_bias_relu_fake(
    x: Tensor, bias: Tensor | None, shortcut: Tensor | None, relu: bool
) -> None:
    return None


def add_bias_relu__reference(
    x: Tensor, bias: Tensor | None = None, shortcut: Tensor | None = None, relu: bool = True
) -> Tensor:
    """Add and clip in separate passes, each rounded to the type of x."""
    if bias is not None:
        x = x.add_(bias.to(x.dtype).view(-1, 1, 1))
    if shortcut is not None:
        x = x.add_(shortcut)
    return x.relu_() if relu else x
