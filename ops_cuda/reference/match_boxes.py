"""Twin of matching, with the matrix of all overlaps of an image."""

import torch
from torch import Tensor


def match_boxes(
    candidates: Tensor,
    truths: Tensor,
    truth_offsets: Tensor,
    positive_iou: float,
    negative_iou: float,
    keep_best: bool = False,
) -> tuple[Tensor, Tensor]:
    """Twin of `ops_cuda.match_boxes`."""
    images = len(truth_offsets) - 1
    truth = candidates.new_zeros(images, candidates.shape[1], dtype=torch.int64)
    verdict = torch.zeros_like(truth)
    bounds = truth_offsets.tolist()
    for image, boxes in enumerate(candidates.expand(images, -1, -1)):
        own = truths[bounds[image] : bounds[image + 1]]
        if not len(own) or not len(boxes):
            continue
        overlap = _overlaps(own, boxes)
        best, truth[image] = overlap.max(dim=0)
        positive = best >= positive_iou
        if keep_best:
            best_of_truth = overlap.amax(dim=1, keepdim=True)
            # a true box that no candidate touches would otherwise "tie" with all of them
            positive |= ((overlap == best_of_truth) & (best_of_truth > 0)).any(dim=0)
        verdict[image] = torch.where(best >= negative_iou, -1, 0)
        verdict[image][positive] = 1
    return truth, verdict


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (G, 4) and others (N, 4): (G, N), 0 where no number."""
    areas, other_areas = (
        (each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, others)
    )
    upper_left = torch.maximum(boxes[:, None, :2], others[:, :2])
    lower_right = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    width, height = (lower_right - upper_left).clamp(min=0).unbind(2)
    shared = width * height
    overlap = shared / (areas[:, None] + other_areas - shared)
    return torch.where(overlap > 0, overlap, 0.0)
