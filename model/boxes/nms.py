"""Non-maximum suppression for a whole batch at once."""

import torch
from torch import Tensor

from ops_cuda import batched_nms_mask


def nms_per_image(
    boxes: Tensor,
    scores: Tensor,
    images: Tensor,
    groups: Tensor,
    num_images: int,
    iou_threshold: float,
    max_detections: int,
) -> tuple[Tensor, list[int]]:
    """Run NMS within each group of each image, then keep the best boxes per image.

    Syncs with the device once.

    Args:
        boxes: (N, 4) float32, pixels, of all images.
        scores: (N,) float32; boxes with score -inf are dropped.
        images: (N,) int64, image of each box, 0..B-1.
        groups: (N,) int64, class or level; boxes of different groups never suppress each other.
        num_images: B.
        iou_threshold: IoU above which the higher score suppresses the other.
        max_detections: boxes kept per image.

    Returns:
        (D,) int64 indices of the kept boxes, image by image, highest score first; and the number
        kept in each of the B images.
    """
    survives = batched_nms_mask(boxes, scores, groups * num_images + images, iou_threshold)
    # Dropped boxes go to a bin after the last image. Stable sorts keep the order by score.
    bins = torch.where(survives & (scores > -torch.inf), images, num_images)
    order = scores.argsort(descending=True, stable=True)
    order = order[bins[order].argsort(stable=True)]
    sizes = bins.new_zeros(num_images + 1).scatter_add_(0, bins, torch.ones_like(bins))
    parts = torch.split(order, sizes.tolist())  # the one device sync
    best = [part[:max_detections] for part in parts[:num_images]]
    return torch.cat(best), [part.shape[0] for part in best]
