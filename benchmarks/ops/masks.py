"""Masks beside torchvision's and pycocotools'."""

from collections.abc import Iterator

import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

import ops_cuda
from benchmarks.ops.contest import Contest
from benchmarks.ops.scene import HEIGHT, WIDTH, random_boxes


def mask_contests(device: torch.device) -> Iterator[Contest]:
    """Pasting 100 detections."""
    masks, boxes = torch.rand(100, 28, 28, device=device), random_boxes(100, 500, device)
    yield Contest(
        "paste_masks",
        f"100 on {HEIGHT}x{WIDTH}",
        lambda: ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5),
        "paste_masks_in_image > 0.5",
        lambda: (paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) > 0.5)[:, 0],
    )
