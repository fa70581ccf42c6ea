"""3x3 convolution with bias and ReLU against torch's (oneDNN), in shapes of the detector."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

import ops_cuda
from benchmarks.ops.comparison import Comparison

# images or ROIs, channels in and out, height, width: for an image of 800 x 1088 pixels
SHAPES = {
    "fpn, rpn p2": (1, 256, 200, 272),
    "fpn, rpn p3": (1, 256, 100, 136),
    "fpn, rpn p4": (1, 256, 50, 68),
    "fpn, rpn p5": (1, 256, 25, 34),
    "rpn p6": (1, 256, 13, 17),
    "res2": (1, 64, 200, 272),
    "res3": (1, 128, 100, 136),
    "res4": (1, 256, 50, 68),
    "res5": (1, 512, 25, 34),
    "mask head": (100, 256, 14, 14),
}


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield every 3x3 convolution of stride 1 of R50-FPN; none on CUDA, where ours is torch's."""
    if device.type != "cpu":
        return
    for name, shape in SHAPES.items():
        yield _comparison(name, shape)


def _comparison(name: str, shape: tuple[int, int, int, int]) -> Comparison:
    images, channels, height, width = shape
    layout = torch.channels_last
    x = torch.randn(shape).relu_().contiguous(memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)
    weight = weight.contiguous(memory_format=layout)
    bias = torch.randn(channels)
    packed = ops_cuda.pack_conv3x3(weight)
    return Comparison(
        "conv3x3_relu",
        f"{name}: {images}x{channels}x{height}x{width}",
        lambda: ops_cuda.conv3x3_relu(x, packed, bias, channels),
        "F.conv2d + F.relu_",
        lambda: F.relu_(F.conv2d(x, weight, bias, padding=1)),
    )
