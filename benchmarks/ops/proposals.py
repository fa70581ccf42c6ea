"""Proposals of a feature pyramid against torchvision's."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import HEIGHT, WIDTH

STRIDES, SIZES, RATIOS = (4, 8, 16, 32, 64), (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield the selection of proposals, with the counts of inference and of training."""
    for images in (1, 2):
        for mode, number in (("test", 1000), ("train", 2000)):
            yield _selection(device, images, mode, number)


def _selection(device: torch.device, images: int, mode: str, number: int) -> Comparison:
    anchors = [_anchors(*level).to(device) for level in zip(STRIDES, SIZES, strict=True)]
    generator = torch.Generator().manual_seed(images)
    lengths = [len(a) for a in anchors]
    # Logits differ by more than the rounding of torchvision's sigmoid: it does not define ties.
    spread = torch.linspace(-4, 4, sum(lengths))
    shuffled = [spread[torch.randperm(len(spread), generator=generator)] for _ in range(images)]
    logits = [level.contiguous().to(device) for level in torch.stack(shuffled).split(lengths, 1)]
    deltas = [0.3 * torch.randn(images, len(a), 4, generator=generator).to(device) for a in anchors]
    limits = torch.tensor([[WIDTH, HEIGHT, WIDTH, HEIGHT]] * images, device=device).float()
    numbers = {"training": number, "testing": number}
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, numbers, numbers, 0.7).eval()

    def ours() -> list[Tensor]:
        boxes, _, counts = ops_cuda.select_proposals(
            logits, deltas, anchors, limits, number, number, 0.7, 1e-3, math.log(1000 / 16)
        )
        return [boxes, counts]

    # torchvision concatenates the levels for its losses before this step.
    flat_logits, all_anchors = torch.cat(logits, 1).view(-1, 1), [torch.cat(anchors)] * images
    flat_deltas = torch.cat(deltas, 1).view(-1, 4)

    def peer() -> list[Tensor]:
        boxes = rpn.box_coder.decode(flat_deltas, all_anchors).view(images, -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, flat_logits, [(HEIGHT, WIDTH)] * images, lengths)
        counts = torch.tensor([len(each) for each in proposals], device=device)
        return [torch.nn.utils.rnn.pad_sequence(proposals, batch_first=True), counts]

    size = f"{images} of {HEIGHT}x{WIDTH}, {number} ({mode})"
    return Comparison("select_proposals", size, ours, "decode + filter_proposals", peer)


def _anchors(stride: int, side: int) -> Tensor:
    y, x = torch.meshgrid(
        torch.arange(0, HEIGHT, stride), torch.arange(0, WIDTH, stride), indexing="ij"
    )
    half = torch.tensor([[ratio**-0.5, ratio**0.5] for ratio in RATIOS]) * side / 2
    centers = torch.stack([x, y], -1).reshape(-1, 1, 2)
    return torch.cat([centers - half, centers + half], -1).reshape(-1, 4)
