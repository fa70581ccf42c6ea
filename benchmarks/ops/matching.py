"""Matching against torchvision's IoU matrix and Matcher."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import HEIGHT, WIDTH, random_boxes
from model.boxes.anchors import AnchorGrid
from model.structures import ImageSize

STRIDES = (4, 8, 16, 32, 64)
# torchvision's matrix and its intermediate results take 20 bytes and more per pair.
PEER_CHUNK = 5000


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield all anchors of an image with the RPN's thresholds, many boxes with the box head's."""
    grid = AnchorGrid([(32,), (64,), (128,), (256,), (512,)], (0.5, 1.0, 2.0), STRIDES)
    cells = [ImageSize(-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in STRIDES]
    anchors = torch.cat(grid.tile(cells, ImageSize(HEIGHT, WIDTH))).to(device)
    for count in (20, 200):
        yield _comparison(
            f"{len(anchors)} anchors x {count} boxes", anchors, count, (0.7, 0.3, True)
        )
    boxes = random_boxes(200_000, 200, device)
    yield _comparison("200000 boxes x 2000 boxes", boxes, 2000, (0.5, 0.5, False), PEER_CHUNK)


def _comparison(
    size: str,
    candidates: Tensor,
    count: int,
    thresholds: tuple[float, float, bool],
    peer_chunk: int | None = None,
) -> Comparison:
    gt_boxes = random_boxes(count, 200, candidates.device)
    offsets = torch.tensor([0, count], device=candidates.device)
    matrix = f"matrix {len(candidates) * count * 4 / 2**20:.0f} MiB"
    matcher = Matcher(*thresholds)

    def ours() -> Tensor:
        matched_gt, labels = ops_cuda.match_boxes(candidates[None], gt_boxes, offsets, *thresholds)
        # torchvision's values for negative and ignored; int32, so that the order is compared too
        return torch.where(labels == ops_cuda.POSITIVE, matched_gt, -1 + labels)[0].int()

    def peer() -> Tensor:
        chunks = candidates.split(peer_chunk or len(candidates))
        return torch.cat([matcher(box_iou(gt_boxes, chunk)) for chunk in chunks]).int()

    return Comparison(
        "match_boxes",
        f"{size}, {matrix}",
        ours,
        "torchvision box_iou + Matcher" + (f", {peer_chunk} at a time" if peer_chunk else ""),
        peer,
    )
