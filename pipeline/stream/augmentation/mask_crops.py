"""Bitmaps of single objects, cut to the object, and their run lengths.

Shapes: N objects, h w pixels of a crop.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.structures import RunLengthMasks

Bitmap = NDArray[np.bool_]


class MaskCrop(NamedTuple):
    """The part of a mask's canvas that holds the mask.

    Args:
        bitmap: (h, w) bool; (1, 1) or larger.
        left: column of its first pixel on the canvas.
        top: row of its first pixel on the canvas.
    """

    bitmap: Bitmap
    left: int
    top: int

    def trimmed(self) -> "MaskCrop":
        """Return the smallest crop with the same pixels; a single pixel if none is set."""
        rows = np.flatnonzero(self.bitmap.any(axis=1))
        columns = np.flatnonzero(self.bitmap.any(axis=0))
        if not len(rows):
            return MaskCrop(np.zeros((1, 1), dtype=bool), self.left, self.top)
        (y1, y2), (x1, x2) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
        bitmap = self.bitmap[y1 : y2 + 1, x1 : x2 + 1]
        return MaskCrop(bitmap, self.left + x1, self.top + y1)

    def region_of(self, canvas: Bitmap) -> Bitmap:
        """Return the view (h, w) of a canvas (H, W) at the place of this crop."""
        height, width = self.bitmap.shape
        return canvas[self.top : self.top + height, self.left : self.left + width]


def crop_of_runs(masks: RunLengthMasks, index: int) -> MaskCrop:
    """Decode the runs of one object, which must have some."""
    first, last = masks.run_offsets[index : index + 2].tolist()
    ends = masks.run_ends[first:last].numpy()
    height = int(masks.heights[index])
    ones = ends[1::2]  # where the runs of ones end
    if not len(ones):
        return MaskCrop(np.zeros((1, 1), dtype=bool), 0, 0)
    # Only the columns from the first to the last run of ones: canvases may be large.
    left, right = int(ends[0]) // height, -(-int(ones[-1]) // height)
    inside = np.clip(ends - left * height, 0, (right - left) * height)
    values = np.arange(len(ends)) % 2 == 1
    columns = np.repeat(values, np.diff(inside, prepend=0)).reshape(-1, height)
    return MaskCrop(columns.T, left, 0).trimmed()


def encode_crops(crops: Sequence[MaskCrop | None]) -> RunLengthMasks:
    """Run-length encode N crops; the canvas of each mask is its crop alone.

    Args:
        crops: in pixels of the image; None gives an object without a mask.
    """
    ends = [np.zeros(0, dtype=np.int64) if crop is None else _run_ends(crop) for crop in crops]
    shifts = [(0, 0) if crop is None else (-crop.left, -crop.top) for crop in crops]
    to_canvas = torch.ones(len(crops), 4)
    to_canvas[:, 2:] = torch.tensor(shifts, dtype=torch.float32).reshape(-1, 2)
    return RunLengthMasks(
        run_ends=torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *ends])),
        run_offsets=torch.tensor(np.cumsum([0, *map(len, ends)]), dtype=torch.int64),
        heights=torch.tensor(
            [1 if crop is None else crop.bitmap.shape[0] for crop in crops], dtype=torch.int64
        ),
        to_canvas=to_canvas,
    )


def _run_ends(crop: MaskCrop) -> NDArray[np.int64]:
    """Return where the runs of a crop end, down its columns; the first run is one of zeros."""
    pixels = crop.bitmap.T.ravel()
    return np.append(np.flatnonzero(np.diff(pixels, prepend=False)), len(pixels))
