"""Matching beside torchvision's matrix of overlaps and Matcher."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

import ops_cuda
from benchmarks.ops.contest import Contest
from benchmarks.ops.scene import HEIGHT, WIDTH, random_boxes
from model.anchors import AnchorGrid
from model.structures import ImageSize

STRIDES = (4, 8, 16, 32, 64)
IOU = (0.7, 0.3)


def matching_contests(device: torch.device) -> Iterator[Contest]:
    """All anchors of a picture, or as many random boxes as candidates; ignored count as -2."""
    grid = AnchorGrid((32, 64, 128, 256, 512), (0.5, 1.0, 2.0), STRIDES)
    cells = [ImageSize(-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in STRIDES]
    anchors = torch.cat(grid(cells, ImageSize(HEIGHT, WIDTH))).to(device)
    for count in (20, 200):
        yield _contest(f"{len(anchors)} anchors x {count} boxes", anchors, count)
    yield _contest("200000 boxes x 2000 boxes", random_boxes(200_000, 200, device), 2000)


def _contest(size: str, candidates: Tensor, count: int) -> Contest:
    truths = random_boxes(count, 200, candidates.device)
    offsets = torch.tensor([0, count], device=candidates.device)
    mib = len(candidates) * count * 4 / 2**20
    matcher = Matcher(*IOU, allow_low_quality_matches=True)

    def ours() -> Tensor:
        truth, verdict = ops_cuda.match_boxes(candidates[None], truths, offsets, *IOU, True)
        return torch.where(verdict == ops_cuda.POSITIVE, truth, verdict - 1)[0].int()

    def theirs() -> Tensor:
        return matcher(box_iou(truths, candidates)).int()

    return Contest(
        "match_boxes",
        f"{size} (matrix: {mib:.0f} MiB)",
        ours,
        "torchvision box_iou + Matcher",
        theirs,
    )
