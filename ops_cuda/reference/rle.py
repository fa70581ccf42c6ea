"""Twins of the run-length encoding. Letters: R masks, N runs of all masks together."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops_cuda.reference.paste_masks import paste_masks


def encode_roi_masks_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, grid: bool = False
) -> tuple[Tensor, Tensor]:
    """Twin of `ops_cuda.encode_roi_masks_rle`: the runs of one pasted bitmap after the other."""
    runs = [
        _runs(paste_masks(mask[None], box[None], height, width, threshold, grid)[0])
        for mask, box in zip(masks, boxes, strict=True)
    ]
    lengths = torch.tensor([0, *map(len, runs)], device=masks.device)
    return torch.cat([lengths[:0], *runs]), lengths.cumsum(0)


def compress_rle(counts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Twin of `ops_cuda.compress_rle`.

    Each run after the third is stored as its difference to the one before last; each number in
    groups of five bits, least significant first, bit 6 marking that more follow, plus 48 to be
    printable.
    """
    place = torch.arange(len(counts)) - offsets[:-1].repeat_interleave(offsets.diff())
    numbers = counts - torch.where(place > 2, counts.roll(2), 0)
    groups = numbers[:, None] >> (5 * torch.arange(13))  # arithmetic: keeps the sign
    codes, rest = groups & 31, groups >> 5
    # the last group is the first whose sign bit says all about the rest
    complete = torch.where(codes & 16 != 0, rest == -1, rest == 0)
    last = complete.byte().argmax(1, keepdim=True)
    group = torch.arange(13)
    text = (codes + 48 + 32 * (group < last))[group <= last].byte()
    ends = F.pad((last[:, 0] + 1).cumsum(0), (1, 0))
    return text, ends[offsets]


def _runs(bitmap: Tensor) -> Tensor:
    """(H, W) of 0 and 1 to the lengths of its runs down the columns, 0 first."""
    pixels = bitmap.T.flatten()
    edges = (pixels != F.pad(pixels[:-1], (1, 0))).nonzero()[:, 0]
    borders = [edges.new_tensor([0]), edges, edges.new_tensor([len(pixels)])]
    return torch.cat(borders).diff()
