"""From masks in ROI space to COCO's run lengths, and those to COCO's text."""

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import require_indices, require_one_device
from ops_cuda.paste_masks import require_pasting


def encode_roi_masks_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> tuple[Tensor, Tensor]:
    """Run lengths of the bitmaps of `paste_masks`, without the bitmaps.

    Args:
        masks: (R, M, M) float, probability in [0, 1].
        boxes: (R, 4) float, x1 y1 x2 y2, pixels, as `paste_masks` takes them.
        height: of the image, pixels.
        width: of the image, pixels.
        threshold: a pixel is set where its probability is above this.
        grid: as `paste_masks` takes it.

    Returns:
        counts: (N,) int64, lengths of runs of 0 and 1 in turn, down the columns of the image; each
            mask begins with a run of 0, which has length 0 where the first pixel is set.
        offsets: (R + 1,) int64; mask r has ``counts[offsets[r]:offsets[r + 1]]``.

    Raises:
        ValueError: shapes, types or devices are not as above, or the image has 2**32 pixels or
            more, which COCO's 32-bit run lengths do not hold.

    Source: the run lengths of pycocotools' ``rleEncode``.
    """
    masks, boxes = require_pasting(masks, boxes, height, width)
    if height * width >= 2**32:
        raise ValueError(f"height * width must be below 2**32; got {height} * {width}")
    if not library.compiled_for("encode_roi_masks_rle", boxes.device):
        return reference.encode_roi_masks_rle(masks, boxes, height, width, threshold, grid)
    counts, offsets = torch.ops.ops_cuda.encode_roi_masks_rle(
        masks, boxes, height, width, threshold, grid
    )
    return counts, offsets


def compress_rle(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """COCO's text of run lengths, as files and pycocotools hold it.

    Args:
        counts: (N,) int64, as `encode_roi_masks_rle` gives them; moved to the CPU if need be.
        offsets: (R + 1,) int64, rising from 0 to N.

    Returns:
        text: (T,) uint8 on the CPU, printable ASCII.
        offsets: (R + 1,) int64 on the CPU; mask r has ``text[offsets[r]:offsets[r + 1]]``.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: ``offsets`` do not rise from 0 to N.

    Source: the format of pycocotools' ``rleToString``.
    """
    require_indices("counts", counts)
    require_indices("offsets", offsets)
    require_one_device(counts=counts, offsets=offsets)
    if len(offsets) == 0:
        raise ValueError("offsets must be (R + 1,); got none. For no masks it is one 0")
    counts, offsets = counts.cpu(), offsets.cpu()
    if not library.compiled_for("compress_rle", counts.device):
        return reference.compress_rle(counts, offsets)
    text, text_offsets = torch.ops.ops_cuda.compress_rle(counts, offsets)
    return text, text_offsets
