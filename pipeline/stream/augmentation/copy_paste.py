"""Paste objects of one image on another, so that every mask is what can still be seen.

Shapes: N objects of the image, M pasted ones, P keypoints, H W pixels.
Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.structures import ImageSize, MixedMasks, Targets
from model.structures.batch_masks import join_masks, rasterize_masks
from pipeline.stream.augmentation.mask_crops import Bitmap, MaskCrop, encode_crops
from pipeline.stream.augmentation.object_selection import select_masks, select_objects
from pipeline.stream.augmentation.visible_objects import keep_visible

GRAY = 128
"""Value of the pixels of an image that has grown, where nothing is pasted."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Composition:
    """The objects of an image on which others are pasted.

    Args:
        targets: all visible objects; the pasted ones come last.
        cover: (H, W) bool, the pixels of the pasted objects, on the resulting image.
    """

    targets: Targets
    cover: Bitmap

    @property
    def size(self) -> ImageSize:
        """Size of the resulting image."""
        return ImageSize(*self.cover.shape)


def paste_targets(
    targets: Targets, size: ImageSize, pasted: Targets, limits: ImageSize
) -> Composition:
    """Paste objects on an image.

    Covered objects lose the pixels below, and are left out if they have no others; an object
    without a mask counts as its whole box. Masks of covered and pasted objects become run lengths,
    and their boxes those of the visible pixels. Covered keypoints stay labeled, as hidden ones.

    Args:
        targets: N objects.
        size: size of their image.
        pasted: M objects; those without a mask are not pasted.
        limits: height and width at which pasted objects are cut. The image grows as far as they
            extend beyond it.

    Raises:
        ValueError: masks were not read.
    """
    pasted = keep_visible(pasted, limits)
    crops = _pixels_of_objects(pasted, range(len(pasted)), limits)
    drawn = [index for index, crop in enumerate(crops) if crop.bitmap.any()]
    pasted = select_objects(pasted, torch.tensor(drawn, dtype=torch.int64))
    crops = [crops[index].trimmed() for index in drawn]
    cover = np.zeros(
        (
            max([size.height, *(crop.top + crop.bitmap.shape[0] for crop in crops)]),
            max([size.width, *(crop.left + crop.bitmap.shape[1] for crop in crops)]),
        ),
        dtype=bool,
    )
    for crop in crops:
        crop.region_of(cover)[...] |= crop.bitmap
    below = _hide_keypoints(_cover_objects(targets, size, cover), cover)
    on_top = replace(pasted, boxes=_boxes_of(crops), masks=encode_crops(crops))
    return Composition(_concatenate(below, on_top), cover)


def paste_pixels(canvas: Tensor, size: ImageSize, source: Tensor, cover: Bitmap) -> None:
    """Write pasted objects over an image, in place.

    Args:
        canvas: (_, _, 3) uint8, with the image in its upper left corner; not smaller than the
            cover.
        size: size of the image, not larger than the cover.
        source: (_, _, 3) uint8, the image of the pasted objects.
        cover: (H, W) bool, from `paste_targets`.
    """
    height, width = cover.shape
    canvas[: size.height, size.width : width] = GRAY
    canvas[size.height : height, :width] = GRAY
    shared = tuple(slice(min(sides)) for sides in zip(cover.shape, source.shape, strict=False))
    pixels, new_pixels = canvas.numpy()[shared], source.numpy()[shared]
    # Channel by channel, eight times as fast as with a mask that is repeated for each.
    for channel in range(3):
        np.copyto(pixels[..., channel], new_pixels[..., channel], where=cover[shared])


def _masks_of(targets: Targets) -> MixedMasks:
    """Return the masks, and one more object without a mask."""
    if targets.masks is None:
        raise ValueError("pasting needs masks, but they were not read with the objects")
    return join_masks([targets.masks], _CPU)


def _pixels_of_objects(targets: Targets, indices: Iterable[int], size: ImageSize) -> list[MaskCrop]:
    """Rasterize the masks of some objects inside their boxes and the image.

    An object without a mask has no pixels.
    """
    masks, areas = _masks_of(targets), _areas(targets.boxes, size)
    crops = []
    for index in indices:
        x1, y1, x2, y2 = areas[index]
        side = max(x2 - x1, y2 - y1)  # cells of one pixel
        box = torch.tensor([[x1, y1, x1 + side, y1 + side]], dtype=torch.float32)
        drawn = rasterize_masks(masks, torch.tensor([index]), box, side)[0]
        crops.append(MaskCrop(drawn[: y2 - y1, : x2 - x1].numpy() > 0, x1, y1))
    return crops


def _areas(boxes: Tensor, size: ImageSize) -> list[list[int]]:
    """Return x1 y1 x2 y2 in whole pixels, a pixel larger than the box, but inside the image."""
    limits = torch.tensor([size.width, size.height])
    near = (boxes[:, :2].floor().long() - 1).clamp(min=0).minimum(limits - 1)
    far = (boxes[:, 2:].ceil().long() + 1).maximum(near + 1).minimum(limits)
    areas: list[list[int]] = torch.cat([near, far], dim=1).tolist()
    return areas


def _cover_objects(targets: Targets, size: ImageSize, cover: Bitmap) -> Targets:
    """Take the covered pixels from objects; covered objects move to the end."""
    untouched, covered = dict.fromkeys(range(len(targets))), {}
    areas = _areas(targets.boxes, size)
    at_border = [_is_at_moved_border(area, size, cover) for area in areas]
    near = [
        index
        for index, (x1, y1, x2, y2) in enumerate(areas)
        if at_border[index] or cover[y1:y2, x1:x2].any()
    ]
    for index, mask in zip(near, _pixels_of_objects(targets, near, size), strict=True):
        has_pixels = bool(mask.bitmap.any())
        solid = mask if has_pixels else _box_as_mask(targets.boxes[index], size)
        visible = solid.bitmap & ~solid.region_of(cover)
        is_cut = has_pixels and at_border[index]
        if not is_cut and np.array_equal(visible, solid.bitmap):
            continue
        del untouched[index]
        if visible.any():
            covered[index] = MaskCrop(visible, solid.left, solid.top).trimmed(), has_pixels
    if len(untouched) == len(targets):
        return targets
    rest = select_objects(targets, torch.tensor(list(untouched), dtype=torch.int64))
    changed = select_objects(targets, torch.tensor(list(covered), dtype=torch.int64))
    masks = encode_crops([crop if has_pixels else None for crop, has_pixels in covered.values()])
    boxes = _boxes_of([crop for crop, _ in covered.values()])
    return _concatenate(rest, replace(changed, boxes=boxes, masks=masks))


def _is_at_moved_border(area: Sequence[int], size: ImageSize, cover: Bitmap) -> bool:
    """Return whether an object touches a border of an image that grows there.

    Its mask may go on beyond the border, where it was of no account before.
    """
    (_, _, x2, y2), grown = area, ImageSize(*cover.shape)
    return x2 == size.width < grown.width or y2 == size.height < grown.height


def _box_as_mask(box: Tensor, size: ImageSize) -> MaskCrop:
    """Return the pixels whose centers are in a box, at least one."""
    limits = torch.tensor([size.width, size.height])
    near = box[:2].round().long().clamp(min=0).minimum(limits - 1)
    far = box[2:].round().long().minimum(limits).maximum(near + 1)
    (x1, y1), (width, height) = near.tolist(), (far - near).tolist()
    return MaskCrop(np.ones((height, width), dtype=bool), x1, y1)


def _boxes_of(crops: Sequence[MaskCrop]) -> Tensor:
    """Return the boxes (N, 4) of trimmed crops."""
    corners = [
        (left, top, left + bitmap.shape[1], top + bitmap.shape[0]) for bitmap, left, top in crops
    ]
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def _hide_keypoints(targets: Targets, cover: Bitmap) -> Targets:
    """Set the visibility of covered keypoints from 2 to 1."""
    points = targets.keypoints
    if points is None:
        return targets
    limits = torch.tensor([cover.shape[1], cover.shape[0]])
    x, y = points[..., :2].floor().long().clamp(min=0).minimum(limits - 1).unbind(-1)
    is_covered = torch.from_numpy(cover)[y, x]
    visibility = torch.where(is_covered, points[..., 2].clamp(max=1), points[..., 2])
    return replace(targets, keypoints=torch.cat([points[..., :2], visibility[..., None]], dim=-1))


def _concatenate(first: Targets, second: Targets) -> Targets:
    """Return the objects of both, as those of the first one's image."""
    count = len(first) + len(second)
    masks = join_masks([each.masks for each in (first, second) if each.masks is not None], _CPU)
    keypoints = [each.keypoints for each in (first, second) if each.keypoints is not None]
    return replace(
        first,
        boxes=torch.cat([first.boxes, second.boxes]),
        labels=torch.cat([first.labels, second.labels]),
        masks=select_masks(masks, torch.arange(count)),
        keypoints=torch.cat(keypoints) if keypoints else None,
    )
