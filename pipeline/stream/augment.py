"""Augmentation of one training image and its objects: random resize and horizontal flip.

Shapes: G ground-truth objects of the image, H W pixels, P keypoints, V vertices.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.boxes.convention import CONTINUOUS, BoxConvention
from model.config.conventions import ResizeRounding
from model.preprocess import resize_image, resized_size
from model.structures import (
    BitmapMasks,
    ImageSize,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
    Targets,
)

# Most images of a dataset have one of a few sizes.
_resized_size = functools.lru_cache(maxsize=1 << 16)(resized_size)


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


@dataclass(frozen=True)
class Augmentation:
    """The transform of one image.

    Args:
        size: image size after resizing.
        flip: whether to flip left and right.
        convention: box convention; decides how box corners are resized.
    """

    size: ImageSize
    flip: bool
    convention: BoxConvention = CONTINUOUS

    def mirror_x(self, x: Tensor) -> Tensor:
        """Mirror x coordinates of polygon vertices and keypoints, consistently with box corners."""
        return self.size.width - self.convention.offset - x


def draw_augmentations(
    original_sizes: Sequence[ImageSize],
    fractions: NDArray[np.float64],
    short_sides: Sequence[int],
    long_side: int,
    flip_probability: float,
    rounding: ResizeRounding = "nearest",
    convention: BoxConvention = CONTINUOUS,
) -> list[Augmentation]:
    """Draw a short side and a flip for each of N images.

    Args:
        original_sizes: sizes of the images.
        fractions: (N, 2) random numbers in [0, 1): one decides the short side, one the flip.
        short_sides: short sides to draw from, pixels.
        long_side: limit of the long side, pixels.
        flip_probability: probability of a horizontal flip.
        rounding: how the resized sides are rounded; see ``model.preprocess.resized_size``.
        convention: box convention.
    """
    chosen = (fractions[:, 0] * len(short_sides)).astype(np.int64).tolist()
    flips = (fractions[:, 1] < flip_probability).tolist()
    return [
        Augmentation(_resized_size(size, short_sides[n], long_side, rounding), flip, convention)
        for size, n, flip in zip(original_sizes, chosen, flips, strict=True)
    ]


def augment(
    sample: TrainingSample, augmentation: Augmentation, keypoint_flip: Sequence[int] = ()
) -> TrainingSample:
    """Resize and flip pixels, boxes, masks and keypoints together.

    Args:
        sample: left unchanged.
        augmentation: the transform to apply.
        keypoint_flip: index of the keypoint that each one is taken from in a flip
            (``model.config.keypoint_names.flip_order``).
    """
    size = ImageSize(*sample.pixels.shape[:2])
    targets = augment_targets(sample.targets, size, augmentation, keypoint_flip)
    return replace(sample, pixels=augment_pixels(sample.pixels, augmentation), targets=targets)


def augment_pixels(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """Resize and flip pixels (h, w, 3) uint8."""
    size = augmentation.size
    if not augmentation.flip:
        return resize_image(pixels, size)
    # Flip the smaller of the two images: resizing treats left and right alike, to the bit.
    if pixels.shape[1] < size.width:
        return resize_image(pixels.flip(1), size)
    return resize_image(pixels, size).flip(1)


def augment_targets(
    targets: Targets,
    size: ImageSize,
    augmentation: Augmentation,
    keypoint_flip: Sequence[int] = (),
) -> Targets:
    """Resize and flip boxes, masks and keypoints.

    Args:
        targets: left unchanged.
        size: size of their image.
        augmentation: the transform to apply.
        keypoint_flip: see `augment`.
    """
    resized = augmentation.size
    scale = torch.tensor(
        [resized.width / size.width, resized.height / size.height], dtype=torch.float32
    )
    boxes = augmentation.convention.scale(targets.boxes, size, resized)
    if augmentation.flip:
        x1, y1, x2, y2 = boxes.unbind(1)
        boxes = torch.stack([resized.width - x2, y1, resized.width - x1, y2], 1)
    masks = targets.masks
    if masks is not None:
        masks = _augment_masks(masks, augmentation, scale)
    keypoints = targets.keypoints
    if keypoints is not None:
        keypoints = _augment_keypoints(keypoints, augmentation, scale, keypoint_flip)
    return replace(targets, boxes=boxes, masks=masks, keypoints=keypoints)


def _augment_keypoints(
    keypoints: Tensor, augmentation: Augmentation, scale: Tensor, flip_order: Sequence[int]
) -> Tensor:
    """Transform (G, P, 3) keypoints; unlabeled ones stay 0, 0, 0."""
    points, visibility = keypoints[..., :2] * scale, keypoints[..., 2:]
    if augmentation.flip:
        mirrored = torch.stack([augmentation.mirror_x(points[..., 0]), points[..., 1]], -1)
        points, visibility = mirrored[:, flip_order], visibility[:, flip_order]
    return torch.cat([points * (visibility > 0), visibility], -1)


def _augment_masks(
    masks: InstanceMasks, augmentation: Augmentation, scale: Tensor
) -> InstanceMasks:
    match masks:
        case PolygonMasks():
            return _augment_polygons(masks, augmentation, scale)
        case RunLengthMasks():
            return _augment_runs(masks, augmentation, scale)
        case MixedMasks():
            return MixedMasks(
                _augment_polygons(masks.polygons, augmentation, scale),
                _augment_runs(masks.runs, augmentation, scale),
            )
        case BitmapMasks():
            raise TypeError(
                "bitmap masks cannot be resized; encode them first with "
                "model.structures.batch_masks.encode_bitmaps"
            )


def _augment_polygons(
    masks: PolygonMasks, augmentation: Augmentation, scale: Tensor
) -> PolygonMasks:
    vertices = masks.vertices * scale
    if augmentation.flip:
        vertices = torch.stack([augmentation.mirror_x(vertices[:, 0]), vertices[:, 1]], 1)
    return replace(masks, vertices=vertices)


def _augment_runs(
    masks: RunLengthMasks, augmentation: Augmentation, scale: Tensor
) -> RunLengthMasks:
    """Update ``to_canvas``, the map from the augmented image back to the canvas of the runs.

    The runs themselves stay the same; the map undoes the flip first, then the resize.
    """
    to_canvas = masks.to_canvas.clone()
    to_canvas[:, :2] /= scale
    if augmentation.flip:
        to_canvas[:, 2] += to_canvas[:, 0] * augmentation.size.width
        to_canvas[:, 0] *= -1
    return replace(masks, to_canvas=to_canvas)
