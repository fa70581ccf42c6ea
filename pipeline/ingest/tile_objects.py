"""The parts of an image's objects that a tile shows.

Shapes: G objects of the image.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.inference.tile_layout import Window
from model.structures import ImageSize, MaskRuns
from ops_cuda import compress_rle
from pipeline.config.data_tiles import DataTilesConfig
from pipeline.ingest.validate_mask import encode_polygons
from pipeline.shards.run_lengths import run_ends

_MIN_SIDE_PX = 0.01
"""A thinner box has no width left in float32."""

Floats = NDArray[np.float64]


class ObjectCutter:
    """Cuts the objects of one image to its tiles.

    Masks are cut as pixels: those of all tiles together are exactly the mask of the image. An
    object that a tile shows whole keeps its polygons, if they paint the same pixels there.

    Args:
        row: of the whole image.
        size: of the whole image.
        settings: what becomes of cut objects.
        counts: the counts of the manifest, which are added to.
    """

    def __init__(
        self,
        row: Mapping[str, Any],
        size: ImageSize,
        settings: DataTilesConfig,
        counts: Counter[str],
    ) -> None:
        self.row = row
        self.settings = settings
        self.counts = counts
        self.boxes: Floats = np.array(row["boxes"], dtype=np.float64).reshape(-1, 4)
        self.masks = _mask_runs(row, size)
        self.areas = self.masks.areas().numpy()

    def cut(self, window: Window) -> dict[str, Any]:
        """Return the columns of a tile's row that describe its objects, without their ids."""
        shares, boxes, masks = self._shown(window)
        kept = []
        crowd = []
        for index in np.flatnonzero(shares > 0).tolist():
            is_crowd = bool(self.row["iscrowd"][index])
            is_object = not is_crowd and shares[index] >= self.settings.min_kept
            if is_crowd or is_object or self.settings.smaller_parts == "ignore":
                kept.append(index)
                crowd.append(not is_object)
            if not is_crowd:
                dropped = not is_object and self.settings.smaller_parts == "drop"
                name = "objects" if is_object else "parts_dropped" if dropped else "parts_ignored"
                self.counts[f"tile_{name}"] += 1
        return self._columns(window, kept, crowd, shares, boxes, masks)

    def _shown(self, window: Window) -> tuple[Floats, Floats, MaskRuns]:
        """Return the share (G,) of each object that a tile shows, its boxes (G, 4), and masks."""
        left, top, _, _ = window
        limits = torch.tensor([window]).expand(len(self.masks), -1)
        masks = self.masks.clipped(limits).shifted(-left, -top)
        pixels = masks.areas().numpy()
        height, width = window.size
        boxes = self.boxes - np.array([left, top, left, top])
        clipped = boxes.clip(0, np.array([width, height, width, height]))
        whole, part = ((b[:, 2:] - b[:, :2]).clip(0) for b in (boxes, clipped))
        of_box = part.prod(1) / whole.prod(1)
        of_box[(part < _MIN_SIDE_PX).any(1)] = 0
        shares = np.where(self.areas > 0, pixels / np.maximum(self.areas, 1), of_box)
        for index in np.flatnonzero((pixels > 0) & (pixels < self.areas)).tolist():
            clipped[index] = _bounds(masks, index)
        # A mask may reach beyond its box, even to a tile that does not show the box.
        for index in np.flatnonzero((pixels > 0) & (of_box == 0)).tolist():
            clipped[index] = _bounds(masks, index)
        return shares, clipped, masks

    def _columns(
        self,
        window: Window,
        kept: Sequence[int],
        crowd: Sequence[bool],
        shares: Floats,
        boxes: Floats,
        masks: MaskRuns,
    ) -> dict[str, Any]:
        row, size = self.row, window.size
        texts = _compressed(masks[torch.tensor(kept, dtype=torch.int64)], size)
        polygons: list[tuple[tuple[float, ...], ...]] = []
        rle: list[str | None] = []
        for index, text, is_crowd in zip(kept, texts, crowd, strict=True):
            moved = _moved(row["polygons"][index], window)
            same = bool(moved) and not is_crowd and shares[index] == 1
            same = same and encode_polygons(moved, size)["counts"].decode("ascii") == text
            polygons.append(moved if same else ())
            rle.append(None if same or not self.areas[index] else text)
        areas = masks.areas().tolist()
        return {
            "boxes": [boxes[index].tolist() for index in kept],
            "labels": [row["labels"][index] for index in kept],
            "polygons": polygons,
            "rle": rle,
            "iscrowd": list(crowd),
            "area": [
                row["area"][index]
                if shares[index] == 1
                else float(areas[index] or row["area"][index] * shares[index])
                for index in kept
            ],
            "keypoints": None
            if row["keypoints"] is None
            else [_move_keypoints(row["keypoints"][index], window) for index in kept],
            "source_annotation_id": [
                row["source_annotation_id"][index] or json.dumps(row["annotation_id"][index])
                for index in kept
            ],
        }


def _mask_runs(row: Mapping[str, Any], size: ImageSize) -> MaskRuns:
    """Return the masks of a row's objects; that of an object without a mask is empty."""
    lengths = []
    for polygons, rle in zip(row["polygons"], row["rle"], strict=True):
        text = rle
        if text is None and polygons:
            text = encode_polygons(polygons, size)["counts"].decode("ascii")
        ends = np.zeros(0, np.int64) if text is None else run_ends(text, size)
        lengths.append(torch.from_numpy(np.diff(ends, prepend=0)))
    offsets = torch.tensor([0, *map(len, lengths)]).cumsum(0)
    counts = torch.cat([torch.zeros(0, dtype=torch.int64), *lengths])
    return MaskRuns.from_run_lengths(counts, offsets, size.height)


def _bounds(masks: MaskRuns, index: int) -> tuple[int, int, int, int]:
    runs = slice(*masks.offsets[index : index + 2].tolist())
    columns, tops, bottoms = masks.columns[runs], masks.tops[runs], masks.bottoms[runs]
    return int(columns[0]), int(tops.min()), int(columns[-1]) + 1, int(bottoms.max())


def _compressed(masks: MaskRuns, size: ImageSize) -> list[str]:
    characters, offsets = compress_rle(*masks.run_lengths(*size))
    text, bounds = characters.numpy().tobytes().decode("ascii"), offsets.tolist()
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def _moved(polygons: Sequence[Sequence[float]], window: Window) -> tuple[tuple[float, ...], ...]:
    corner = (window.left, window.top)
    return tuple(
        tuple(value - corner[n % 2] for n, value in enumerate(polygon)) for polygon in polygons
    )


def _move_keypoints(points: Sequence[float], window: Window) -> tuple[float, ...]:
    """Return flat keypoints in pixels of a tile; those outside of it are unlabeled."""
    moved: list[float] = []
    for x, y, visibility in zip(points[::3], points[1::3], points[2::3], strict=True):
        left, top, right, bottom = window
        inside = left <= x < right and top <= y < bottom
        moved += [x - left, y - top, visibility] if inside and visibility > 0 else [0.0, 0.0, 0.0]
    return tuple(moved)
