"""Pasting and encoding of masks against torchvision's and pycocotools'."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

import ops_cuda
from benchmarks.ops.comparison import Comparison
from benchmarks.ops.inputs import HEIGHT, WIDTH, random_boxes

try:
    from pycocotools import mask as coco_masks
except ImportError:  # a bare GPU machine
    coco_masks = None


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield pasting and encoding of 100 detections."""
    masks, boxes = torch.rand(100, 28, 28, device=device), random_boxes(100, 500, device)

    def bitmaps() -> Tensor:
        return ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5)

    def torchvision_bitmaps() -> Tensor:
        return (paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) > 0.5)[:, 0]

    def texts() -> Tensor:
        runs = ops_cuda.encode_roi_masks_rle(masks, boxes, HEIGHT, WIDTH, 0.5)
        return ops_cuda.compress_rle(*runs)[0]

    size = f"100 on {HEIGHT}x{WIDTH}"
    yield Comparison(
        "paste_masks", size, bitmaps, "paste_masks_in_image > 0.5", torchvision_bitmaps
    )
    if coco_masks is not None:
        yield Comparison(
            "encode_roi_masks_rle",
            size,
            texts,
            "our paste_masks + pycocotools",
            lambda: _pycocotools_texts(bitmaps()),
        )
        yield Comparison(
            "encode_roi_masks_rle",
            size,
            texts,
            "paste_masks_in_image + pycocotools",
            lambda: _pycocotools_texts(torchvision_bitmaps().byte()),
        )


def _pycocotools_texts(bitmaps: Tensor) -> Tensor:
    """Encode bitmaps (R, H, W) uint8 to COCO's run-length texts, concatenated."""
    texts = [
        coco_masks.encode(np.asfortranarray(bitmap))["counts"] for bitmap in bitmaps.cpu().numpy()
    ]
    return torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)
