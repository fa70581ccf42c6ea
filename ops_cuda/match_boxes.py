"""Matching of anchors or proposals to ground-truth boxes, without the matrix of all IoUs.

Shapes: B images, N candidates of an image, G ground-truth boxes of all images.
"""

import torch
from torch import Tensor

from ops_cuda.checks import (
    require_floating,
    require_fraction,
    require_indices,
    require_one_device,
    require_rows,
)
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_autocast_to_float32, register_fake

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match_boxes(
    candidates: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    positive_iou: float,
    negative_iou: float,
    allow_low_quality: bool = False,
) -> tuple[Tensor, Tensor]:
    """Match each candidate to the ground-truth box of its image with the highest IoU.

    IoUs are those of ``torchvision.ops.box_iou`` in float32, bit for bit; a NaN (from a NaN in
    either box, infinite boxes, or two boxes without area) counts as no overlap.

    Args:
        candidates: (B, N, 4) float, x1 y1 x2 y2; (1, N, 4) if all images share them.
        gt_boxes: (G, 4) float, the ground-truth boxes of all images, image by image.
        gt_offsets: (B + 1,) int64, ascending from 0: image b has gt_boxes[gt_offsets[b]:
            gt_offsets[b + 1]]. Not verified on CUDA, where they are clamped to G.
        positive_iou: a candidate with at least this IoU is POSITIVE (1).
        negative_iou: one below this is NEGATIVE (0); between the two it is IGNORED (-1).
        allow_low_quality: also make positive, for each ground-truth box that overlaps any
            candidate, the candidates of highest IoU (all that tie). Such a candidate keeps the
            index of the ground-truth box that has the highest IoU with *it*, as in Detectron.

    Returns:
        matched_gt: (B, N) int64, index among the ground-truth boxes of the image, the first of
            equals; 0 where nothing overlaps.
        labels: (B, N) int64, match labels; NEGATIVE in images without ground-truth boxes.
        Memory apart from these: O(B * N + G).

    Raises:
        ValueError: shapes, types, devices or thresholds are not as above.
        RuntimeError: offsets do not ascend from 0 to at most G (CPU).

    Source: Ren et al. 2015, section 3.1.2.
    """
    if candidates.ndim != 3 or candidates.shape[2] != 4:
        raise ValueError(f"candidates must be (B or 1, N, 4); got {tuple(candidates.shape)}")
    require_floating("candidates", candidates)
    require_rows("gt_boxes", gt_boxes, 4)
    require_indices("gt_offsets", gt_offsets)
    images = len(gt_offsets) - 1
    if images < 0 or candidates.shape[0] not in (1, images):
        raise ValueError(
            f"gt_offsets must be (B + 1,), one more than images; got {images + 1} for "
            f"candidates of {candidates.shape[0]}"
        )
    require_one_device(candidates=candidates, gt_boxes=gt_boxes, gt_offsets=gt_offsets)
    require_fraction("positive_iou", positive_iou)
    require_fraction("negative_iou", negative_iou)
    if negative_iou > positive_iou:
        raise ValueError(f"negative_iou {negative_iou} is above positive_iou {positive_iou}")
    candidates, gt_boxes = candidates.detach().float(), gt_boxes.detach().float()
    arguments = (candidates, gt_boxes, gt_offsets, positive_iou, negative_iou, allow_low_quality)
    if not compiled_for("match_boxes", candidates.device):
        return match_boxes_reference(*arguments)
    matched_gt, labels = torch.ops.ops_cuda.match_boxes(*arguments)
    return matched_gt, labels


@register_fake("match_boxes")
def _match_boxes_fake(
    candidates: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    positive_iou: float,
    negative_iou: float,
    allow_low_quality: bool,
) -> tuple[Tensor, Tensor]:
    shape = (gt_offsets.shape[0] - 1, candidates.shape[1])
    return (
        candidates.new_empty(shape, dtype=torch.int64),
        candidates.new_empty(shape, dtype=torch.int64),
    )


register_autocast_to_float32("match_boxes")


def match_boxes_reference(
    candidates: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    positive_iou: float,
    negative_iou: float,
    allow_low_quality: bool = False,
) -> tuple[Tensor, Tensor]:
    """Match image by image, from the matrix of all IoUs."""
    images = len(gt_offsets) - 1
    matched_gt = candidates.new_zeros(images, candidates.shape[1], dtype=torch.int64)
    labels = torch.zeros_like(matched_gt)
    bounds = gt_offsets.tolist()
    for image, boxes in enumerate(candidates.expand(images, -1, -1)):
        gt = gt_boxes[bounds[image] : bounds[image + 1]]
        if not len(gt) or not len(boxes):
            continue
        iou = _iou_matrix(gt, boxes)
        highest, matched_gt[image] = iou.max(dim=0)
        positive = highest >= positive_iou
        if allow_low_quality:
            highest_of_gt = iou.amax(dim=1, keepdim=True)
            # a ground-truth box without any overlap would otherwise "tie" with all candidates
            positive |= ((iou == highest_of_gt) & (highest_of_gt > 0)).any(dim=0)
        labels[image] = torch.where(highest >= negative_iou, IGNORED, NEGATIVE)
        labels[image][positive] = POSITIVE
    return matched_gt, labels


def _iou_matrix(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU of boxes (G, 4) and others (N, 4): (G, N), 0 instead of NaN."""
    areas, other_areas = (
        (each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, others)
    )
    upper_left = torch.maximum(boxes[:, None, :2], others[:, :2])
    lower_right = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    width, height = (lower_right - upper_left).clamp(min=0).unbind(2)
    intersection = width * height
    iou = intersection / (areas[:, None] + other_areas - intersection)
    return torch.where(iou > 0, iou, 0.0)
