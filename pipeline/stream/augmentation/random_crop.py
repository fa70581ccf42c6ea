"""Draw the crop of an image before it is resized, and move it to an object.

The size of a crop is drawn from the size of the image alone: every worker needs the sizes of a
global batch for its canvas, but decodes only its own images. Where the crop lies may depend on the
objects.

Shapes: N objects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from model.structures import ImageSize, Targets
from model.structures.batch_masks import join_masks, rasterize_masks
from pipeline.config.augmentation import RandomCropConfig
from pipeline.stream.augmentation.apply import augment_targets
from pipeline.stream.augmentation.object_selection import select_objects
from pipeline.stream.augmentation.parameters import Augmentation, CropTarget, Window

# Random numbers per image: whether to crop, height, width, left, top, and the object.
CROP_DRAWS = 6

# Cells per side of a box in which a pixel of a mask is searched.
_CELLS = 32


def draw_crop(
    size: ImageSize, numbers: Sequence[float], settings: RandomCropConfig | None
) -> tuple[Window | None, CropTarget | None]:
    """Draw the crop of an image.

    Args:
        size: of the image.
        numbers: `CROP_DRAWS` random numbers in [0, 1).
        settings: ``data.random_crop``; None crops nothing.

    Returns:
        The crop, None to keep the whole image; and what moves it to an object
        (`crop_to_object`), None if it stays where it is.

    Source: detectron2's ``RandomCrop`` for the four ways to draw a size.
    """
    of_crop, of_height, of_width, of_left, of_top, of_object = numbers
    if settings is None or of_crop >= settings.probability:
        return None, None
    crop = ImageSize(
        _draw_side(size.height, 0, of_height, settings),
        _draw_side(size.width, 1, of_width, settings),
    )
    left = int(of_left * (size.width - crop.width + 1))
    top = int(of_top * (size.height - crop.height + 1))
    target = CropTarget(of_object, of_left, of_top) if settings.with_object else None
    return Window(left, top, crop), target


def crop_to_object(augmentation: Augmentation, targets: Targets, size: ImageSize) -> Augmentation:
    """Move a crop that has a ``crop_target`` so that it shows an object; others stay.

    The crop contains the center of the box of the drawn object. If the mask has nothing in it, as
    around the center of a ring, the crop is centered on a pixel of the mask. If that is less than
    a pixel after resizing, the next object is tried. If no object can be shown, or there is none,
    the crop stays where it is.

    Args:
        augmentation: as drawn.
        targets: all N objects of the image as annotated.
        size: of the image.
    """
    crop, target = augmentation.crop, augmentation.crop_target
    if crop is None or target is None:
        return augmentation
    moved = replace(augmentation, crop_target=None)
    # What a scale jitter cuts off afterward does not count, and flips change nothing.
    alone = Augmentation(augmentation.size, flip=False, convention=augmentation.convention)
    first = int(target.of_object * len(targets))
    for index in [*range(first, len(targets)), *range(first)]:
        one = select_objects(targets, torch.tensor([index]))
        for window in _windows_at(one, crop.size, target, size):
            if len(augment_targets(one, size, replace(alone, crop=window))):
                return replace(moved, crop=window)
    return moved


def _draw_side(side: int, axis: int, number: float, settings: RandomCropConfig) -> int:
    """Return the height (axis 0) or width (axis 1) of a crop of an image with that side."""
    limit = settings.size[axis]
    match settings.type:
        case "relative_range":
            limit = side * (limit + number * (1.0 - limit))
        case "relative":
            limit *= side
        case "absolute_range":
            low, high = (min(side, int(each)) for each in settings.size)
            limit = low + int(number * (high - low + 1))
    return max(1, min(side, round(limit)))


def _windows_at(
    one: Targets, crop: ImageSize, target: CropTarget, size: ImageSize
) -> Iterator[Window]:
    """Yield crops that contain the center of the box, then the pixel of the mask next to it."""
    x1, y1, x2, y2 = one.boxes[0].tolist()
    yield _window_around((x1 + x2) / 2, (y1 + y2) / 2, crop, (target.of_left, target.of_top), size)
    if one.masks is None:
        return
    masks = join_masks([one.masks], torch.device("cpu"))
    drawn = rasterize_masks(masks, torch.tensor([0]), one.boxes, _CELLS)[0] > 0
    cells = drawn.nonzero() + 0.5
    if not len(cells):
        return
    distances = (cells - _CELLS / 2).square().sum(dim=1)
    y, x = (cells[distances.argmin()] / _CELLS).tolist()
    yield _window_around(x1 + x * (x2 - x1), y1 + y * (y2 - y1), crop, (0.5, 0.5), size)


def _window_around(
    x: float, y: float, crop: ImageSize, numbers: tuple[float, float], size: ImageSize
) -> Window:
    """Return one of the crops inside the image that contain a point, uniform in the numbers."""
    starts = []
    for point, side, whole, number in zip(
        (x, y), (crop.width, crop.height), (size.width, size.height), numbers, strict=True
    ):
        pixel = min(max(int(point), 0), whole - 1)
        first, last = max(0, pixel - side + 1), min(pixel, whole - side)
        starts.append(first + int(number * (last - first + 1)))
    left, top = starts
    return Window(left, top, crop)
