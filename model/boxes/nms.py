"""Non-maximum suppression for a whole batch at once.

Shapes: B images, N boxes of all images together, K kept.
"""

import torch
from torch import Tensor

from ops_cuda import surviving_boxes


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
    survives = surviving_boxes(boxes, scores, groups * num_images + images, iou_threshold)
    # The dropped count as of an image after the last. Sorts are stable: best first in each image.
    place = torch.where(survives & (scores > -torch.inf), images, num_images)
    order = scores.argsort(descending=True, stable=True)
    order = order[place[order].argsort(stable=True)]
    sizes = place.new_zeros(num_images + 1).scatter_add_(0, place, torch.ones_like(place))
    parts = torch.split(order, sizes.tolist())  # the one wait for the device
    best = [part[:limit] for part in parts[:num_images]]
    return torch.cat(best), [part.shape[0] for part in best]
