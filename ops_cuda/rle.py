"""COCO run-length encoding of ROI masks on the image.

Shapes: R ROI masks, M mask side, N runs of all masks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops_cuda.checks import require_indices, require_one_device
from ops_cuda.library import compiled_for
from ops_cuda.paste_masks import paste_masks_reference, require_masks
from ops_cuda.registration import register_autocast_to_float32, register_fake


def encode_roi_masks_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the run lengths of the bitmaps of `paste_masks` without creating the bitmaps.

    Args:
        masks: (R, M, M) float, probability in [0, 1].
        boxes: (R, 4) float, x1 y1 x2 y2, pixels, as `paste_masks` takes them.
        height: image height, pixels.
        width: image width, pixels.
        threshold: a pixel is set where its probability is above this.
        grid: as `paste_masks` takes it.

    Returns:
        counts: (N,) int64, lengths of alternating runs of 0 and 1, down the columns of the image;
            each mask begins with a run of 0, which has length 0 if the first pixel is set.
        offsets: (R + 1,) int64; mask r has ``counts[offsets[r]:offsets[r + 1]]``.

    Raises:
        ValueError: shapes, types or devices are not as above, or the image has 2**32 pixels or
            more, which COCO's 32-bit run lengths cannot hold.

    Source: the run lengths of pycocotools' ``rleEncode``.
    """
    masks, boxes = require_masks(masks, boxes, height, width)
    if height * width >= 2**32:
        raise ValueError(f"height * width must be below 2**32; got {height} * {width}")
    if not compiled_for("encode_roi_masks_rle", boxes.device):
        return encode_roi_masks_rle_reference(masks, boxes, height, width, threshold, grid)
    counts, offsets = torch.ops.ops_cuda.encode_roi_masks_rle(
        masks, boxes, height, width, threshold, grid
    )
    return counts, offsets


def compress_rle(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Compress run lengths to COCO's text, the form of files and of pycocotools.

    Args:
        counts: (N,) int64, from `encode_roi_masks_rle`; moved to the CPU if necessary.
        offsets: (R + 1,) int64, ascending from 0 to N.

    Returns:
        text: uint8 on the CPU, printable ASCII.
        offsets: (R + 1,) int64 on the CPU; mask r has ``text[offsets[r]:offsets[r + 1]]``.

    Raises:
        ValueError: shapes, types or devices are not as above.
        RuntimeError: ``offsets`` do not ascend from 0 to N.

    Source: the format of pycocotools' ``rleToString``.
    """
    require_indices("counts", counts)
    require_indices("offsets", offsets)
    require_one_device(counts=counts, offsets=offsets)
    if len(offsets) == 0:
        raise ValueError("offsets must be (R + 1,); got none. For no masks it is a single 0")
    counts, offsets = counts.cpu(), offsets.cpu()
    if not compiled_for("compress_rle", counts.device):
        return compress_rle_reference(counts, offsets)
    text, text_offsets = torch.ops.ops_cuda.compress_rle(counts, offsets)
    return text, text_offsets


@register_fake("encode_roi_masks_rle")
def _encode_roi_masks_rle_fake(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool
) -> tuple[Tensor, Tensor]:
    runs = torch.library.get_ctx().new_dynamic_size()
    return (
        masks.new_empty(runs, dtype=torch.int64),
        masks.new_empty(masks.shape[0] + 1, dtype=torch.int64),
    )


@register_fake("compress_rle")
def _compress_rle_fake(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    characters = torch.library.get_ctx().new_dynamic_size()
    return counts.new_empty(characters, dtype=torch.uint8), torch.empty_like(offsets)


register_autocast_to_float32("encode_roi_masks_rle")


def encode_roi_masks_rle_reference(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> tuple[Tensor, Tensor]:
    """Paste the masks one by one and find the runs of each bitmap."""
    runs = [
        _run_lengths(
            paste_masks_reference(mask[None], box[None], height, width, threshold, grid)[0]
        )
        for mask, box in zip(masks, boxes, strict=True)
    ]
    lengths = torch.tensor([0, *map(len, runs)], device=masks.device)
    return torch.cat([lengths[:0], *runs]), lengths.cumsum(0)


def _run_lengths(bitmap: Tensor) -> Tensor:
    """Return the run lengths of a bitmap (H, W) of 0 and 1 down its columns, 0 first."""
    pixels = bitmap.T.flatten()
    edges = (pixels != F.pad(pixels[:-1], (1, 0))).nonzero()[:, 0]
    bounds = [edges.new_tensor([0]), edges, edges.new_tensor([len(pixels)])]
    return torch.cat(bounds).diff()


def compress_rle_reference(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Encode all runs of all masks at once.

    Each run after the third is stored as its difference to the one before last; each number in
    groups of five bits, least significant first, with bit 6 set if more groups follow, plus 48 to
    be printable.
    """
    index_in_mask = torch.arange(len(counts)) - offsets[:-1].repeat_interleave(offsets.diff())
    numbers = counts - torch.where(index_in_mask > 2, counts.roll(2), 0)
    groups = numbers[:, None] >> (5 * torch.arange(13))  # arithmetic: keeps the sign
    codes, rest = groups & 31, groups >> 5
    # the last group is the first one whose sign bit determines the rest
    complete = torch.where(codes & 16 != 0, rest == -1, rest == 0)
    last = complete.byte().argmax(1, keepdim=True)
    group = torch.arange(13)
    text = (codes + 48 + 32 * (group < last))[group <= last].byte()
    ends = F.pad((last[:, 0] + 1).cumsum(0), (1, 0))
    return text, ends[offsets]
