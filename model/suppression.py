"""Non-maximum suppression for a whole batch at once.

Shapes: B images, N boxes of all images together, K kept.
"""

import torch
from torch import Tensor

from ops_cuda import batched_nms


def keep_best_per_image(
    boxes: Tensor,
    scores: Tensor,
    images: Tensor,
    groups: Tensor,
    num_images: int,
    iou_threshold: float,
    limit: int,
) -> tuple[Tensor, list[int]]:
    """Suppress overlapping boxes within each group of each image, then keep the best per image.

    Args:
        boxes: (N, 4) float32, pixels.
        scores: (N,) float32; a box at -inf is dropped.
        images: (N,) int64, the image of each box, 0..B-1.
        groups: (N,) int64, class or level; boxes of different groups never suppress each other.
        num_images: B.
        iou_threshold: overlap at which the better box suppresses the other.
        limit: boxes kept per image, at most.

    Returns:
        (K,) int64 indices, image by image and best first in each; and the B counts.
    """
    kept = batched_nms(boxes, scores, groups * num_images + images, iou_threshold)
    # Stable: within an image the order stays best first.
    kept = kept[images[kept].argsort(stable=True)]
    image = images[kept]
    counts = torch.bincount(image, minlength=num_images)
    rank = torch.arange(len(kept), device=kept.device) - (counts.cumsum(0) - counts)[image]
    kept = kept[(rank < limit) & (scores[kept] > -torch.inf)]
    return kept, torch.bincount(images[kept], minlength=num_images).tolist()
