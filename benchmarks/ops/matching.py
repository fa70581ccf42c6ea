"""Matching beside torchvision's matrix of overlaps and Matcher."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

import ops_cuda
from benchmarks.ops.contest import Contest
from benchmarks.ops.scene import HEIGHT, WIDTH, random_boxes
from model.boxes.anchors import AnchorGrid
from model.structures import ImageSize

STRIDES = (4, 8, 16, 32, 64)
# torchvision's matrix and what it is made from take 20 bytes and more per pair.
PEER_PART = 5000


def matching_contests(device: torch.device) -> Iterator[Contest]:
    """All anchors of a picture with the rules of the first stage; many boxes with the second's."""
    grid = AnchorGrid([(32,), (64,), (128,), (256,), (512,)], (0.5, 1.0, 2.0), STRIDES)
    cells = [ImageSize(-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in STRIDES]
    anchors = torch.cat(grid.tile(cells, ImageSize(HEIGHT, WIDTH))).to(device)
    for count in (20, 200):
        yield _contest(f"{len(anchors)} anchors x {count} boxes", anchors, count, (0.7, 0.3, True))
    boxes = random_boxes(200_000, 200, device)
    yield _contest("200000 boxes x 2000 boxes", boxes, 2000, (0.5, 0.5, False), PEER_PART)


def _contest(
    size: str,
    candidates: Tensor,
    count: int,
    rules: tuple[float, float, bool],
    peer_part: int | None = None,
) -> Contest:
    truths = random_boxes(count, 200, candidates.device)
    offsets = torch.tensor([0, count], device=candidates.device)
    matrix = f"matrix {len(candidates) * count * 4 / 2**20:.0f} MiB"
    matcher = Matcher(*rules)

    def ours() -> Tensor:
        truth, verdict = ops_cuda.match_boxes(candidates[None], truths, offsets, *rules)
        # torchvision's numbers for negative and ignored; int32, so that each place is compared
        return torch.where(verdict == ops_cuda.POSITIVE, truth, -1 + verdict)[0].int()

    def theirs() -> Tensor:
        parts = candidates.split(peer_part or len(candidates))
        return torch.cat([matcher(box_iou(truths, part)) for part in parts]).int()

    return Contest(
        "match_boxes",
        f"{size}, {matrix}",
        ours,
        "torchvision box_iou + Matcher" + (f", {peer_part} at a time" if peer_part else ""),
        theirs,
    )
