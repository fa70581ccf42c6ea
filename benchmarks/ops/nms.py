"""NMS against torchvision's."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import random_boxes


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield class-agnostic, class-aware and grouped NMS."""
    yield from (_grouped(device, groups) for groups in (5, 80))
    for count in (1000, 5000, 20_000):
        boxes, scores = random_boxes(count, 200, device), torch.rand(count, device=device)
        classes = torch.randint(0, 80, (count,), device=device)
        yield Comparison(
            "nms",
            f"{count} boxes",
            lambda b=boxes, s=scores: ops_cuda.nms(b, s, 0.7),
            "torchvision.ops.nms",
            lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.7),
        )
        yield Comparison(
            "batched_nms",
            f"{count} boxes, 80 classes",
            lambda b=boxes, s=scores, c=classes: ops_cuda.batched_nms(b, s, c, 0.5),
            "torchvision.ops.batched_nms",
            lambda b=boxes, s=scores, c=classes: torchvision.ops.batched_nms(b, s, c, 0.5),
        )


def _grouped(device: torch.device, groups: int, size: int = 2000) -> Comparison:
    """Compare the levels of one image or of sixteen, sorted as topk returns them."""
    boxes = random_boxes(groups * size, 200, device).view(groups, size, 4)
    scores = torch.rand(groups, size, device=device).sort(dim=1, descending=True).values

    def ours() -> list[Tensor]:
        return list(ops_cuda.grouped_nms(boxes, scores, 0.7, size, presorted=True))

    def peer() -> list[Tensor]:
        kept, counts = boxes.new_zeros(groups, size, dtype=torch.int64), []
        for group in range(groups):
            alone = torchvision.ops.nms(boxes[group], scores[group], 0.7)
            kept[group, : len(alone)] = alone
            counts.append(len(alone))
        return [kept, torch.tensor(counts, device=device)]

    size_text = f"{groups} groups of {size}"
    return Comparison("grouped_nms", size_text, ours, "loop of torchvision.ops.nms", peer)
