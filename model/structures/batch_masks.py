"""The masks of a whole batch in flat tensors, and mask crops rasterized from them."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.structures.masks import (
    BitmapMasks,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
)
from ops_cuda import rasterize_polygons, rasterize_rle


def join_masks(masks: Sequence[InstanceMasks], device: torch.device) -> MixedMasks:
    """Concatenate the masks of a batch and append an object without a mask.

    The appended object belongs to the zero row of :class:`model.structures.BatchTargets`.

    Args:
        masks: the masks of each image. Bitmaps are run-length encoded, which syncs with the device.
        device: device of the masks.

    Returns:
        G + 1 objects, image by image.
    """
    polygons = [_to_polygons(mask, device) for mask in masks] + [_empty_polygons(1, device)]
    runs = [_to_runs(mask, device) for mask in masks] + [_empty_runs(1, device)]
    joined_polygons = PolygonMasks(
        torch.cat([each.vertices for each in polygons]),
        _join_offsets(
            [each.polygon_offsets for each in polygons], [each.vertices for each in polygons]
        ),
        _join_offsets(
            [each.object_offsets for each in polygons],
            [each.polygon_offsets[1:] for each in polygons],
        ),
    )
    joined_runs = RunLengthMasks(
        torch.cat([each.run_ends for each in runs]),
        _join_offsets([each.run_offsets for each in runs], [each.run_ends for each in runs]),
        torch.cat([each.heights for each in runs]),
        torch.cat([each.to_canvas for each in runs]),
    )
    return MixedMasks(joined_polygons, joined_runs)


def rasterize_masks(masks: MixedMasks, objects: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Rasterize the mask of one object inside each box.

    Args:
        masks: the masks of all objects.
        objects: (R,) int64, index of the object to rasterize in each box.
        boxes: (R, 4) float, pixels of the images.
        side: M.

    Returns:
        (R, M, M) float32, 0 or 1.
    """
    polygons, runs = masks.polygons, masks.runs
    from_polygons = rasterize_polygons(
        polygons.vertices, polygons.polygon_offsets, polygons.object_offsets, objects, boxes, side
    )
    if not len(runs.run_ends):
        return from_polygons
    to_canvas = runs.to_canvas[objects]
    on_canvas = boxes * to_canvas[:, :2].repeat(1, 2) + to_canvas[:, 2:].repeat(1, 2)
    from_runs = rasterize_rle(
        runs.run_ends, runs.run_offsets, runs.heights, objects, on_canvas, side
    )
    return torch.maximum(from_polygons, from_runs)


def encode_bitmaps(masks: BitmapMasks) -> RunLengthMasks:
    """Run-length encode bitmaps (N, H, W). Syncs with the device."""
    bitmaps = masks.bitmaps
    count, height, width = bitmaps.shape
    pixels = bitmaps.ne(0).transpose(1, 2).reshape(count, height * width)
    # A run ends where a pixel differs from the previous one (from 0 at the start), and at the end.
    differs = F.pad(pixels, (1, 0))[:, :-1] != pixels
    ends = F.pad(differs, (0, 1), value=True)
    return RunLengthMasks(
        ends.nonzero()[:, 1],
        F.pad(ends.sum(1).cumsum(0), (1, 0)),
        torch.full((count,), height, device=bitmaps.device),
        identity_to_canvas(count, bitmaps.device),
    )


def identity_to_canvas(count: int, device: torch.device) -> Tensor:
    """Return ``to_canvas`` (N, 4) of masks whose canvas is the image itself."""
    return torch.cat((torch.ones(count, 2, device=device), torch.zeros(count, 2, device=device)), 1)


def _to_polygons(masks: InstanceMasks, device: torch.device) -> PolygonMasks:
    match masks:
        case PolygonMasks():
            return masks
        case MixedMasks():
            return masks.polygons
        case _:
            return _empty_polygons(len(masks), device)


def _to_runs(masks: InstanceMasks, device: torch.device) -> RunLengthMasks:
    match masks:
        case RunLengthMasks():
            return masks
        case MixedMasks():
            return masks.runs
        case BitmapMasks():
            return encode_bitmaps(masks)
        case _:
            return _empty_runs(len(masks), device)


def _empty_polygons(count: int, device: torch.device) -> PolygonMasks:
    return PolygonMasks(
        torch.zeros(0, 2, device=device), _zeros(1, device), _zeros(count + 1, device)
    )


def _empty_runs(count: int, device: torch.device) -> RunLengthMasks:
    return RunLengthMasks(
        _zeros(0, device),
        _zeros(count + 1, device),
        _zeros(count, device) + 1,
        identity_to_canvas(count, device),
    )


def _zeros(count: int, device: torch.device) -> Tensor:
    return torch.zeros(count, dtype=torch.int64, device=device)


def _join_offsets(offsets: Sequence[Tensor], items: Sequence[Tensor]) -> Tensor:
    """Join offsets into ``items`` of each image to offsets into the concatenated items."""
    before = itertools.accumulate((len(part) for part in items), initial=0)
    shifted = [part + shift for part, shift in zip(offsets, before, strict=False)]
    return torch.cat([shifted[0][:1], *(part[1:] for part in shifted)])
