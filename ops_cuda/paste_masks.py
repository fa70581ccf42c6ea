"""From masks in ROI space to bitmaps on the image."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import (
    require_equal_length,
    require_floating,
    require_one_device,
    require_positive,
    require_rows,
)


def paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> Tensor:
    """Resize each mask to its box on the image and compare with ``threshold``.

    The geometry of torchvision's ``paste_masks_in_image`` and maskrcnn-benchmark's ``Masker``:
    the mask is padded by one pixel of zeros, its box grown alike and rounded towards zero to whole
    pixels, both corners inclusive. With ``grid`` that of detectron2: the mask fills the box as it
    is, and each pixel of the image reads the mask, zero outside, where its centre lies.

    Args:
        masks: (R, M, M) float, probability in [0, 1].
        boxes: (R, 4) float, x1 y1 x2 y2, pixels; parts outside the image are cut off, a box that
            is not finite gives an empty bitmap.
        height: of the image, pixels.
        width: of the image, pixels.
        threshold: a pixel is set where its probability is above this.
        grid: read the mask at the centres of pixels instead of resizing it to whole pixels.

    Returns:
        (R, height, width) uint8, 0 or 1: torchvision's probabilities above the threshold, but for
        pixels within float rounding of it.

    Raises:
        ValueError: shapes, types or devices are not as above.

    Source: He et al. 2017, section 3.1, inference.
    """
    masks, boxes = require_pasting(masks, boxes, height, width)
    if not library.compiled_for("paste_masks", boxes.device):
        return reference.paste_masks(masks, boxes, height, width, threshold, grid)
    bitmaps: Tensor = torch.ops.ops_cuda.paste_masks(masks, boxes, height, width, threshold, grid)
    return bitmaps


def require_pasting(masks: Tensor, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Masks and boxes in float32; ValueError unless they and the size are as for pasting."""
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or masks.shape[1] == 0:
        raise ValueError(f"masks must be (R, M, M); got {tuple(masks.shape)}")
    require_floating("masks", masks)
    require_rows("boxes", boxes, 4)
    require_equal_length(masks=masks, boxes=boxes)
    require_one_device(masks=masks, boxes=boxes)
    require_positive("height", height)
    require_positive("width", width)
    return masks.detach().float(), boxes.detach().float()
