"""Swap rows and columns of the objects of an image.

Shapes: N objects.
"""

from dataclasses import replace

import torch

from model.structures import (
    BitmapMasks,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)
from pipeline.stream.augmentation.mask_crops import MaskCrop, crop_of_runs, encode_crops


def transpose_targets(targets: Targets) -> Targets:
    """Swap x and y of boxes, masks and keypoints, exactly."""
    masks, points = targets.masks, targets.keypoints
    return replace(
        targets,
        boxes=targets.boxes[:, [1, 0, 3, 2]],
        masks=None if masks is None else _transpose_masks(masks),
        keypoints=None if points is None else points[..., [1, 0, 2]],
    )


def _transpose_masks(masks: InstanceMasks) -> InstanceMasks:
    match masks:
        case PolygonMasks():
            return replace(masks, vertices=masks.vertices.flip(1))
        case RunLengthMasks():
            return _transpose_runs(masks)
        case MixedMasks():
            polygons = replace(masks.polygons, vertices=masks.polygons.vertices.flip(1))
            return MixedMasks(polygons, _transpose_runs(masks.runs))
        case BitmapMasks():
            return BitmapMasks(masks.bitmaps.transpose(1, 2))


def _transpose_runs(masks: RunLengthMasks) -> RunLengthMasks:
    """Encode runs again: they go down the columns, which the map to the canvas cannot change."""
    crops: list[MaskCrop | None] = []
    for index, count in enumerate(masks.run_offsets.diff().tolist()):
        if count:
            bitmap, left, top = crop_of_runs(masks, index)
            crops.append(MaskCrop(bitmap.T, left=top, top=left))
        else:
            crops.append(None)
    runs = encode_crops(crops)
    scale, shift = masks.to_canvas[:, [1, 0]], masks.to_canvas[:, [3, 2]]
    return replace(runs, to_canvas=torch.cat([scale, shift + runs.to_canvas[:, 2:]], dim=1))
