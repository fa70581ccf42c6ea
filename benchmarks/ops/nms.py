"""Suppression beside torchvision's."""

from collections.abc import Iterator

import torch
import torchvision

import ops_cuda
from benchmarks.ops.contest import Contest
from benchmarks.ops.scene import random_boxes


def nms_contests(device: torch.device) -> Iterator[Contest]:
    """Class-agnostic and class-aware suppression."""
    for count in (1000, 5000, 20_000):
        boxes, scores = random_boxes(count, 200, device), torch.rand(count, device=device)
        classes = torch.randint(0, 80, (count,), device=device)
        yield Contest(
            "nms",
            f"{count} boxes",
            lambda b=boxes, s=scores: ops_cuda.nms(b, s, 0.7),
            "torchvision.ops.nms",
            lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.7),
        )
        yield Contest(
            "batched_nms",
            f"{count} boxes, 80 classes",
            lambda b=boxes, s=scores, c=classes: ops_cuda.batched_nms(b, s, c, 0.5),
            "torchvision.ops.batched_nms",
            lambda b=boxes, s=scores, c=classes: torchvision.ops.batched_nms(b, s, c, 0.5),
        )
