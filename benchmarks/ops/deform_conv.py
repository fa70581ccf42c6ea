"""Deformable convolution beside torchvision's."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import ops_cuda
from benchmarks.ops.contest import Contest
from benchmarks.ops.scene import HEIGHT, WIDTH


def deform_conv_contests(device: torch.device) -> Iterator[Contest]:
    """A 3x3 convolution of res3 and one of res5 of ResNet-50, and the gradients of the former."""
    yield from _layer(device, stride=8, channels=128, gradients=True)
    yield from _layer(device, stride=32, channels=512, gradients=False)


def _layer(device: torch.device, stride: int, channels: int, gradients: bool) -> Iterator[Contest]:
    height, width = HEIGHT // stride, WIDTH // stride
    x = torch.rand(1, channels, height, width, device=device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = (0.05 * torch.randn(channels, channels, 3, 3, device=device)).requires_grad_()
    offsets = torch.randn(1, 18, height, width, device=device).requires_grad_()
    modulation = torch.rand(1, 9, height, width, device=device).requires_grad_()
    plain = x.detach().contiguous().requires_grad_()

    def ours() -> Tensor:
        return ops_cuda.deform_conv2d(x, offsets, weight, None, modulation, padding=(1, 1))

    def theirs() -> Tensor:
        return torchvision.ops.deform_conv2d(
            plain, offsets, weight, padding=(1, 1), mask=modulation
        )

    size = f"{channels} channels, {height} x {width}, modulated"
    name = "torchvision.ops.deform_conv2d"
    yield Contest("deform_conv2d forward", size, ours, name, theirs)
    if not gradients:
        return
    found, expected = ours(), theirs()
    incoming = torch.rand_like(found)

    def gradient_of(output: Tensor, source: Tensor) -> list[Tensor]:
        leaves = [source, offsets, weight, modulation]
        return list(torch.autograd.grad(output, leaves, incoming, retain_graph=True))

    yield Contest(
        "deform_conv2d backward",
        size,
        lambda: gradient_of(found, x),
        name,
        lambda: gradient_of(expected, plain),
    )
