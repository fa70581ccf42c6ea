"""The masks of a whole batch in flat tensors, whatever each image's masks are made of.

Shapes: N objects of an image, G objects of all images together, R boxes, M cells per axis.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.structures import (
    BitmapMasks,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
)
from ops_cuda import rasterize_polygons, rasterize_rle


def join_masks(masks: Sequence[InstanceMasks], device: torch.device) -> MixedMasks:
    """The G + 1 objects of a batch: object n of image b becomes n + objects before b.

    The last object has no mask; as in `BatchTruths`, it makes index 0 of an image without objects
    valid.

    Args:
        masks: per image. Bitmaps are encoded, for which the host waits for the device.
        device: where the masks are.
    """
    polygons = [_polygons_of(mask, device) for mask in masks] + [_no_polygons(1, device)]
    runs = [_runs_of(mask, device) for mask in masks] + [_no_runs(1, device)]
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


def draw_masks(masks: MixedMasks, objects: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Each box's object in the cells of the box.

    Args:
        masks: of all objects.
        objects: (R,) int64, the object that each box wants.
        boxes: (R, 4) float, pixels of the images.
        side: M.

    Returns:
        (R, M, M) float32, 0 or 1.
    """
    polygons, runs = masks.polygons, masks.runs
    drawn = rasterize_polygons(
        polygons.vertices, polygons.polygon_offsets, polygons.object_offsets, objects, boxes, side
    )
    if not len(runs.run_ends):
        return drawn
    to_canvas = runs.to_canvas[objects]
    on_canvas = boxes * to_canvas[:, :2].repeat(1, 2) + to_canvas[:, 2:].repeat(1, 2)
    cut = rasterize_rle(runs.run_ends, runs.run_offsets, runs.heights, objects, on_canvas, side)
    return torch.maximum(drawn, cut)


def encode_bitmaps(masks: BitmapMasks) -> RunLengthMasks:
    """The runs of bitmaps (N, H, W) that lie on the image as it is."""
    bitmaps = masks.bitmaps
    count, height, width = bitmaps.shape
    pixels = bitmaps.ne(0).transpose(1, 2).reshape(count, height * width)
    # A run ends where a pixel differs from the one before, or from zero at the start, and at last.
    differs = F.pad(pixels, (1, 0))[:, :-1] != pixels
    ends = F.pad(differs, (0, 1), value=True)
    return RunLengthMasks(
        ends.nonzero()[:, 1],
        F.pad(ends.sum(1).cumsum(0), (1, 0)),
        torch.full((count,), height, device=bitmaps.device),
        unmoved(count, bitmaps.device),
    )


def unmoved(count: int, device: torch.device) -> Tensor:
    """``to_canvas`` (N, 4) of masks on the image as it is."""
    return torch.cat((torch.ones(count, 2, device=device), torch.zeros(count, 2, device=device)), 1)


def _polygons_of(masks: InstanceMasks, device: torch.device) -> PolygonMasks:
    match masks:
        case PolygonMasks():
            return masks
        case MixedMasks():
            return masks.polygons
        case _:
            return _no_polygons(len(masks), device)


def _runs_of(masks: InstanceMasks, device: torch.device) -> RunLengthMasks:
    match masks:
        case RunLengthMasks():
            return masks
        case MixedMasks():
            return masks.runs
        case BitmapMasks():
            return encode_bitmaps(masks)
        case _:
            return _no_runs(len(masks), device)


def _no_polygons(count: int, device: torch.device) -> PolygonMasks:
    return PolygonMasks(
        torch.zeros(0, 2, device=device), _zeros(1, device), _zeros(count + 1, device)
    )


def _no_runs(count: int, device: torch.device) -> RunLengthMasks:
    return RunLengthMasks(
        _zeros(0, device),
        _zeros(count + 1, device),
        _zeros(count, device) + 1,
        unmoved(count, device),
    )


def _zeros(count: int, device: torch.device) -> Tensor:
    return torch.zeros(count, dtype=torch.int64, device=device)


def _join_offsets(offsets: Sequence[Tensor], owned: Sequence[Tensor]) -> Tensor:
    """Offsets into the concatenation of what each part's offsets point into."""
    before = itertools.accumulate((len(part) for part in owned), initial=0)
    shifted = [part + shift for part, shift in zip(offsets, before, strict=False)]
    return torch.cat([shifted[0][:1], *(part[1:] for part in shifted)])
