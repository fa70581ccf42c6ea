"""ROI align against torchvision's."""

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import HEIGHT, LEVELS, SCALES, WIDTH, random_boxes


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield both layouts, and half precision where it is fast."""
    yield from _box_pooling(device, torch.float32, channels_last=True)
    yield from _box_pooling(device, torch.float32, channels_last=False)
    if device.type == "cuda":
        yield from _box_pooling(device, torch.bfloat16, channels_last=True)


def _box_pooling(
    device: torch.device, dtype: torch.dtype, channels_last: bool
) -> Iterator[Comparison]:
    """Yield the pooling of 1,000 ROIs on four levels of 256 channels, and its gradient."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = [
        torch.rand(1, 256, round(HEIGHT * scale), round(WIDTH * scale), device=device)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for scale in SCALES
    ]
    boxes = random_boxes(1000, 500, device)
    rois = torch.cat([boxes.new_zeros(1000, 1), boxes], 1)
    pooler = torchvision.ops.MultiScaleRoIAlign(LEVELS, 7, 2)
    named = OrderedDict(zip(LEVELS, maps, strict=True))

    def ours() -> Tensor:
        return ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, 2, aligned=False)

    def peer() -> Tensor:
        return pooler(named, [boxes.to(dtype)], [(HEIGHT, WIDTH)])

    size = f"1000 rois, {'nhwc' if channels_last else 'nchw'} {str(dtype)[6:]}"
    yield Comparison("roi_align forward", size, ours, "MultiScaleRoIAlign", peer)
    pooled, expected = ours(), peer()
    weights = torch.rand_like(pooled)

    def gradients(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output, maps, weights, retain_graph=True))

    yield Comparison(
        "roi_align backward",
        size,
        lambda: gradients(pooled),
        "MultiScaleRoIAlign",
        lambda: gradients(expected),
    )
