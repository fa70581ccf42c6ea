"""Masks as vertical runs of pixels: small however large the image, and exact to unite.

Shapes: D masks, N runs of all masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MaskRuns:
    """D masks in one image, each a list of runs within one column.

    The runs of a mask ascend by column, then by row, and do not overlap or touch.

    Args:
        columns: (N,) int64, x of each run.
        tops: (N,) int64, y of its first pixel.
        bottoms: (N,) int64, one past y of its last pixel.
        offsets: (D + 1,) int64; mask d has the runs ``offsets[d]:offsets[d + 1]``.
    """

    columns: Tensor
    tops: Tensor
    bottoms: Tensor
    offsets: Tensor

    @classmethod
    def from_run_lengths(cls, counts: Tensor, offsets: Tensor, height: int) -> "MaskRuns":
        """Split COCO's run lengths at the ends of columns.

        Args:
            counts: (N,) int64, as `ops_cuda.encode_roi_masks_rle` returns them.
            offsets: (D + 1,) int64; mask d has ``counts[offsets[d]:offsets[d + 1]]``.
            height: of the image, pixels.
        """
        per_mask = offsets.diff()
        totals = F.pad(counts.cumsum(0), (1, 0))
        ends = totals[1:] - totals[offsets[:-1]].repeat_interleave(per_mask)
        is_set = (_positions(per_mask) % 2 == 1) & (counts > 0)
        owners = torch.arange(len(per_mask), device=counts.device).repeat_interleave(per_mask)
        ends, lengths, owners = ends[is_set], counts[is_set], owners[is_set]
        first = (ends - lengths).div(height, rounding_mode="floor")
        spans = (ends - 1).div(height, rounding_mode="floor") - first + 1
        columns = first.repeat_interleave(spans) + _positions(spans)
        tops = ((ends - lengths).repeat_interleave(spans) - columns * height).clamp(min=0)
        bottoms = (ends.repeat_interleave(spans) - columns * height).clamp(max=height)
        owners = owners.repeat_interleave(spans)
        return cls(columns, tops, bottoms, _offsets(owners, len(per_mask)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, selected: Tensor) -> "MaskRuns":
        """Return the masks that an index or bool tensor selects."""
        indices = selected.nonzero()[:, 0] if selected.dtype == torch.bool else selected
        lengths = self.offsets.diff()[indices]
        runs = self.offsets[:-1][indices].repeat_interleave(lengths) + _positions(lengths)
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        return MaskRuns(self.columns[runs], self.tops[runs], self.bottoms[runs], offsets)

    def to(self, device: torch.device | str) -> "MaskRuns":
        """Return the masks on ``device``."""
        return MaskRuns(
            self.columns.to(device),
            self.tops.to(device),
            self.bottoms.to(device),
            self.offsets.to(device),
        )

    def owners(self) -> Tensor:
        """Return the mask of each run, (N,) int64."""
        return _numbers(self.offsets.diff())

    def areas(self) -> Tensor:
        """Return the number of pixels of each mask, (D,) int64."""
        areas = torch.zeros_like(self.offsets[1:])
        return areas.index_add(0, self.owners(), self.bottoms - self.tops)

    def extents(self) -> Tensor:
        """Return the outermost pixels of each mask, (D, 4) int64 x1 y1 x2 y2.

        Of an empty mask, x2 and y2 are 0, and x1 and y1 larger.
        """
        owners = self.owners()[:, None].expand(-1, 2)
        starts = torch.stack([self.columns, self.tops], 1)
        ends = torch.stack([self.columns + 1, self.bottoms], 1)
        lowest = starts.new_full((len(self), 2), 2**31).scatter_reduce(0, owners, starts, "amin")
        highest = ends.new_zeros(len(self), 2).scatter_reduce(0, owners, ends, "amax")
        return torch.cat([lowest, highest], 1)

    def shifted(self, x: int, y: int) -> "MaskRuns":
        """Return the masks moved right and down."""
        return MaskRuns(self.columns + x, self.tops + y, self.bottoms + y, self.offsets)

    def clipped(self, windows: Tensor) -> "MaskRuns":
        """Return the part of each mask inside a window of its own.

        Args:
            windows: (D, 4) int64, x1 y1 x2 y2; empty if x2 <= x1 or y2 <= y1.
        """
        owners = self.owners()
        left, top, right, bottom = windows[owners].unbind(1)
        tops, bottoms = self.tops.maximum(top), self.bottoms.minimum(bottom)
        kept = (self.columns >= left) & (self.columns < right) & (tops < bottoms)
        offsets = _offsets(owners[kept], len(self))
        return MaskRuns(self.columns[kept], tops[kept], bottoms[kept], offsets)

    def union(self, groups: Tensor, count: int) -> "MaskRuns":
        """Unite the masks of each group.

        Args:
            groups: (D,) int64 in [0, count), the group of each mask.
            count: number of groups; a group without masks has an empty union.
        """
        owners = groups[self.owners()]
        if not len(owners):
            return MaskRuns(self.columns, self.tops, self.bottoms, _offsets(owners, count))
        # Runs of all groups and columns on one line, too far apart to touch those of another.
        rows = self.bottoms.max() + 1
        line = (owners * (self.columns.max() + 1) + self.columns) * rows
        starts, order = (line + self.tops).sort()
        reach = (line + self.bottoms)[order].cummax(0).values
        begins = F.pad(starts[1:] > reach[:-1], (1, 0), value=True)
        ends = reach[F.pad(begins[1:], (0, 1), value=True)]
        owners, columns = owners[order][begins], self.columns[order][begins]
        tops = self.tops[order][begins]
        return MaskRuns(columns, tops, tops + ends - starts[begins], _offsets(owners, count))

    def run_lengths(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the masks as run lengths of the whole image.

        Args:
            height: of the image, pixels.
            width: of the image, pixels.

        Returns:
            counts and offsets, as `ops_cuda.encode_roi_masks_rle` returns them.

        Raises:
            ValueError: the image has 2**32 pixels or more, which COCO's 32-bit run lengths cannot
                hold.
        """
        if height * width >= 2**32:
            raise ValueError(f"height * width must be below 2**32; got {height} * {width}")
        edges = torch.stack(
            [self.columns * height + self.tops, self.columns * height + self.bottoms]
        )
        size = edges.new_tensor([height * width])
        counts = []
        for begin, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            bounds = torch.cat([edges.new_zeros(1), edges[:, begin:end].T.flatten(), size])
            counts.append(_join_touching(bounds.diff()))
        lengths = torch.tensor([0, *map(len, counts)], device=edges.device)
        return torch.cat([edges.new_zeros(0), *counts]), lengths.cumsum(0)

    def bitmap(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """Return a mask cut out at its outermost pixels, and where it is.

        Returns:
            (h, w) uint8 of 0 and 1, and x, y of its upper left pixel. Of an empty mask, one pixel
            of 0 at 0, 0.
        """
        runs = slice(*self.offsets[index : index + 2].tolist())
        columns, tops, bottoms = self.columns[runs], self.tops[runs], self.bottoms[runs]
        if not len(columns):
            return columns.new_zeros((1, 1), dtype=torch.uint8), (0, 0)
        x, y = int(columns.min()), int(tops.min())
        height, width = int(bottoms.max()) - y, int(columns.max()) - x + 1
        steps = torch.zeros(height + 1, width, dtype=torch.int8, device=columns.device)
        steps[tops - y, columns - x] += 1  # runs do not touch: no index is repeated
        steps[bottoms - y, columns - x] -= 1
        return steps[:-1].cumsum(0, dtype=torch.int8).to(torch.uint8), (x, y)


def join_mask_runs(parts: Sequence[MaskRuns]) -> MaskRuns:
    """Return the masks of several objects in one; at least one is needed."""
    lengths = torch.cat([part.offsets.diff() for part in parts])
    return MaskRuns(
        torch.cat([part.columns for part in parts]),
        torch.cat([part.tops for part in parts]),
        torch.cat([part.bottoms for part in parts]),
        F.pad(lengths.cumsum(0), (1, 0)),
    )


def _numbers(lengths: Tensor) -> Tensor:
    """Return 0 ``lengths[0]`` times, then 1 ``lengths[1]`` times, and so on."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def _positions(lengths: Tensor) -> Tensor:
    """Return 0, 1, .. ``lengths[0]`` - 1, then 0, 1, .. ``lengths[1]`` - 1, and so on."""
    starts = lengths.cumsum(0) - lengths
    total = int(lengths.sum())
    return torch.arange(total, device=lengths.device) - starts.repeat_interleave(lengths)


def _offsets(owners: Tensor, count: int) -> Tensor:
    return F.pad(owners.bincount(minlength=count).cumsum(0), (1, 0))


def _join_touching(counts: Tensor) -> Tensor:
    """Join runs of ones with no zero between them, and drop a last run of no zeros."""
    if counts[-1] == 0 and len(counts) > 1:
        counts = counts[:-1]
    # A run of zeros that is empty, except the first, lies between two runs of ones: those of the
    # last row of a column and the first of the next.
    touching = F.pad((counts[2::2] == 0), (1, 0))
    ones, zeros = counts[1::2], counts[0::2]
    group = (~touching[: len(ones)]).cumsum(0) - 1
    joined = ones.new_zeros(int(group[-1]) + 1 if len(group) else 0).index_add(0, group, ones)
    zeros = zeros[~touching[: len(zeros)]]
    result = counts.new_zeros(len(joined) + len(zeros))
    result[0::2], result[1::2] = zeros, joined
    return result
