"""Deformable convolution against torchvision's."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import HEIGHT, WIDTH


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield a 3x3 convolution of ResNet-50's res3 with its gradients, and one of res5."""
    yield from _layer(device, stride=8, channels=128, gradients=True)
    yield from _layer(device, stride=32, channels=512, gradients=False)


def _layer(
    device: torch.device, stride: int, channels: int, gradients: bool
) -> Iterator[Comparison]:
    height, width = HEIGHT // stride, WIDTH // stride
    x = torch.rand(1, channels, height, width, device=device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = (0.05 * torch.randn(channels, channels, 3, 3, device=device)).requires_grad_()
    offsets = torch.randn(1, 18, height, width, device=device).requires_grad_()
    modulation = torch.rand(1, 9, height, width, device=device).requires_grad_()
    contiguous = x.detach().contiguous().requires_grad_()

    def ours() -> Tensor:
        return ops_cuda.deform_conv2d(x, offsets, weight, None, modulation, padding=(1, 1))

    def peer() -> Tensor:
        return torchvision.ops.deform_conv2d(
            contiguous, offsets, weight, padding=(1, 1), mask=modulation
        )

    size = f"{channels} channels, {height} x {width}, modulated"
    name = "torchvision.ops.deform_conv2d"
    yield Comparison("deform_conv2d forward", size, ours, name, peer)
    if not gradients:
        return
    output, peer_output = ours(), peer()
    grad_output = torch.rand_like(output)

    def gradients(output: Tensor, source: Tensor) -> list[Tensor]:
        leaves = [source, offsets, weight, modulation]
        return list(torch.autograd.grad(output, leaves, grad_output, retain_graph=True))

    yield Comparison(
        "deform_conv2d backward",
        size,
        lambda: gradients(output, x),
        name,
        lambda: gradients(peer_output, contiguous),
    )
