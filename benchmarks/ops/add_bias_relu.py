"""Bias, shortcut and ReLU after a convolution against torch's operators, one after the other."""

from collections.abc import Iterator

import torch
from torch import Tensor

import ops_cuda
from benchmarks.ops.comparison import Comparison

# images, channels, height, width: outputs of bottlenecks for an image of 800 x 1088 pixels
SHAPES = {"res2": (1, 256, 200, 272), "res3": (1, 512, 100, 136), "res4": (1, 1024, 50, 68)}


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield the outputs of three stages, on CUDA also in half precision."""
    types = (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16)
    for name, shape in SHAPES.items():
        for dtype in types:
            yield _comparison(f"{name}: {'x'.join(map(str, shape))}", shape, dtype, device)


def _comparison(
    size: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Comparison:
    # Zeros are added, so that x stays the same however often it is changed in place.
    x = torch.rand(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    shortcut, bias = torch.zeros_like(x), torch.zeros(shape[1], device=device, dtype=dtype)
    # On the CPU, convolutions add the bias.
    some_bias = bias if device.type == "cuda" else None

    def peer() -> Tensor:
        y = x if some_bias is None else x.add_(bias.view(-1, 1, 1))
        return y.add_(shortcut).relu_()

    half = " bf16" if dtype == torch.bfloat16 else ""
    return Comparison(
        "add_bias_relu_",
        size + half,
        lambda: ops_cuda.add_bias_relu_(x, some_bias, shortcut),
        "Tensor.add_ + relu_",
        peer,
    )
