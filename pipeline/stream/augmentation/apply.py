"""Apply an augmentation to a training image and its objects.

Shapes: G ground-truth objects of the image, H W pixels, P keypoints, V vertices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.preprocess import resize_image
from model.structures import (
    BitmapMasks,
    ImageSize,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)
from pipeline.stream.augmentation.color import change_colors
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.augmentation.point_map import PointMap
from pipeline.stream.augmentation.transposition import transpose_targets
from pipeline.stream.augmentation.visible_objects import keep_visible


@dataclass(frozen=True)
class TrainingSample:
    """An image and its objects, in the same pixel coordinates.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        targets: boxes, labels, masks and keypoints.
        original_size: image size before resizing.
    """

    pixels: Tensor
    targets: Targets
    original_size: ImageSize


def augment(
    sample: TrainingSample, augmentation: Augmentation, keypoint_flip: Sequence[int] = ()
) -> TrainingSample:
    """Change pixels, boxes, masks and keypoints together.

    Args:
        sample: left unchanged.
        augmentation: the transform to apply.
        keypoint_flip: index of the keypoint that each one is taken from in a mirror image
            (``model.config.keypoint_names.flip_order``).
    """
    size = ImageSize(*sample.pixels.shape[:2])
    targets = augment_targets(sample.targets, size, augmentation, keypoint_flip)
    return replace(sample, pixels=augment_pixels(sample.pixels, augmentation), targets=targets)


def augment_targets(
    targets: Targets,
    size: ImageSize,
    augmentation: Augmentation,
    keypoint_flip: Sequence[int] = (),
) -> Targets:
    """Transform boxes, masks and keypoints; objects outside crop and window are left out.

    Args:
        targets: left unchanged.
        size: size of their image.
        augmentation: the transform to apply.
        keypoint_flip: see `augment`.
    """
    to_points = PointMap.of(augmentation, size, augmentation.convention.offset)
    masks, keypoints = targets.masks, targets.keypoints
    if masks is not None:
        masks = _augment_masks(masks, to_points, PointMap.of(augmentation, size, inset=0.0))
    if keypoints is not None:
        order = keypoint_flip if augmentation.mirrors else None
        keypoints = _augment_keypoints(keypoints, to_points, order)
    boxes = _augment_boxes(targets.boxes, augmentation, size)
    targets = replace(targets, boxes=boxes, masks=masks, keypoints=keypoints)
    if augmentation.cuts:
        targets = keep_visible(targets, augmentation.window_size)
    return transpose_targets(targets) if augmentation.transpose else targets


def augment_pixels(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """Transform pixels (h, w, 3) uint8."""
    if augmentation.crop is not None:
        # Before the resize, so that nothing from beyond the border is blended into it.
        left, top, (height, width) = augmentation.crop
        pixels = pixels[top : top + height, left : left + width]
    color, result = augmentation.color, augmentation.window_size
    # Of the smaller of the two images, because this takes longer than all the rest.
    if color is not None and pixels.shape[0] * pixels.shape[1] < result.height * result.width:
        pixels, color = change_colors(pixels, color), None
    pixels = _change_geometry(pixels, augmentation)
    return pixels if color is None else change_colors(pixels, color)


def _change_geometry(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    size, window = augmentation.size, augmentation.window
    axes = [0] * augmentation.vertical_flip + [1] * augmentation.flip
    if window is None and pixels.shape[1] < size.width:
        # Flip the smaller of the two images: resizing treats both ends alike, to the bit.
        pixels = resize_image(_flip(pixels, axes), size)
    else:
        pixels = resize_image(pixels, size)
        if window is not None:
            left, top, (height, width) = window
            pixels = pixels[top : top + height, left : left + width]
        pixels = _flip(pixels, axes)
    return pixels.transpose(0, 1) if augmentation.transpose else pixels


def _flip(pixels: Tensor, axes: Sequence[int]) -> Tensor:
    return pixels.flip(tuple(axes)) if axes else pixels


def _augment_boxes(boxes: Tensor, augmentation: Augmentation, size: ImageSize) -> Tensor:
    if augmentation.crop is not None:
        left, top, _ = augmentation.crop
        boxes = boxes - torch.tensor([left, top] * 2, dtype=boxes.dtype)
    resized_from = augmentation.resized_from(size)
    boxes = augmentation.convention.scale(boxes, resized_from, augmentation.size)
    if augmentation.window is not None:
        left, top, _ = augmentation.window
        boxes = boxes - torch.tensor([left, top] * 2, dtype=boxes.dtype)
    height, width = augmentation.window_size
    x1, y1, x2, y2 = boxes.unbind(1)
    if augmentation.flip:
        x1, x2 = width - x2, width - x1
    if augmentation.vertical_flip:
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], 1)


def _augment_keypoints(
    keypoints: Tensor, to_points: PointMap, flip_order: Sequence[int] | None
) -> Tensor:
    """Transform (G, P, 3) keypoints; unlabeled ones stay 0, 0, 0."""
    points, visibility = to_points(keypoints[..., :2]), keypoints[..., 2:]
    if flip_order is not None:
        points, visibility = points[:, flip_order], visibility[:, flip_order]
    return torch.cat([points * (visibility > 0), visibility], -1)


def _augment_masks(masks: InstanceMasks, to_points: PointMap, to_pixels: PointMap) -> InstanceMasks:
    """Transform masks.

    Args:
        masks: polygons or runs.
        to_points: the map of vertices, which may be mirrored between pixel centers.
        to_pixels: the map of the area of the image.
    """
    match masks:
        case PolygonMasks():
            return replace(masks, vertices=to_points(masks.vertices))
        case RunLengthMasks():
            return _augment_runs(masks, to_pixels)
        case MixedMasks():
            polygons = replace(masks.polygons, vertices=to_points(masks.polygons.vertices))
            return MixedMasks(polygons, _augment_runs(masks.runs, to_pixels))
        case BitmapMasks():
            raise TypeError(
                "bitmap masks cannot be resized; encode them first with "
                "model.structures.batch_masks.encode_bitmaps"
            )


def _augment_runs(masks: RunLengthMasks, to_pixels: PointMap) -> RunLengthMasks:
    """Update ``to_canvas``, the map from the augmented image back to the canvas of the runs.

    The runs themselves stay the same.
    """
    scale, shift = masks.to_canvas[:, :2], masks.to_canvas[:, 2:]
    new_scale = scale / to_pixels.scale
    return replace(
        masks, to_canvas=torch.cat([new_scale, shift - new_scale * to_pixels.shift], dim=1)
    )
