"""Draw the augmentations of images from random numbers.

Shapes: N images.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.boxes.convention import CONTINUOUS, BoxConvention
from model.config.conventions import ResizeRounding
from model.preprocess import resized_size
from model.structures import ImageSize
from pipeline.config.augmentation import (
    ColorJitterConfig,
    RandomCropConfig,
    ScaleJitterConfig,
)
from pipeline.stream.augmentation.parameters import Augmentation, ColorFactors, Window
from pipeline.stream.augmentation.random_crop import CROP_DRAWS, draw_crop

# Random numbers per image: size, flip, vertical flip, left, top, four of the color, the turn, and
# those of the crop. New ones come last: an image keeps the numbers it had before.
DRAWS = 10 + CROP_DRAWS

# Most images of a dataset have one of a few sizes.
_resized_size = functools.lru_cache(maxsize=1 << 16)(resized_size)

NO_JITTER = ColorJitterConfig()


@dataclass(frozen=True)
class AugmentationRanges:
    """What augmentations are drawn from.

    Args:
        short_sides: short sides to draw from, pixels; without meaning if there is a scale jitter.
        long_side: limit of the long side, pixels.
        flip_probability: probability of a horizontal flip.
        vertical_flip_probability: probability of a vertical flip.
        quarter_turn_probability: probability of a turn by 90, 180 or 270 degrees.
        scale_jitter: scales and size of the window; None resizes to one of the short sides.
        color_jitter: ranges of the color factors.
        rounding: how the resized sides are rounded; see ``model.preprocess.resized_size``.
        convention: box convention.
        random_crop: crop before the resize; None keeps the whole image.
    """

    short_sides: tuple[int, ...]
    long_side: int
    flip_probability: float
    vertical_flip_probability: float = 0.0
    scale_jitter: ScaleJitterConfig | None = None
    color_jitter: ColorJitterConfig = NO_JITTER
    rounding: ResizeRounding = "nearest"
    convention: BoxConvention = CONTINUOUS
    quarter_turn_probability: float = 0.0
    random_crop: RandomCropConfig | None = None


def draw_augmentations(
    original_sizes: Sequence[ImageSize],
    fractions: NDArray[np.float64],
    ranges: AugmentationRanges,
) -> list[Augmentation]:
    """Draw the augmentation of each of N images.

    Args:
        original_sizes: sizes of the images.
        fractions: (N, DRAWS) random numbers in [0, 1).
        ranges: what to draw from.
    """
    return [
        _draw(size, numbers, ranges)
        for size, numbers in zip(original_sizes, fractions.tolist(), strict=True)
    ]


def _draw(original: ImageSize, numbers: list[float], ranges: AugmentationRanges) -> Augmentation:
    of_size, of_flip, of_vertical_flip, of_left, of_top, *of_color, of_turn = numbers[:10]
    crop, crop_target = draw_crop(original, numbers[10:], ranges.random_crop)
    if crop is not None:
        original = crop.size
    window = None
    if ranges.scale_jitter is None:
        short_side = ranges.short_sides[int(of_size * len(ranges.short_sides))]
        size = _resized_size(original, short_side, ranges.long_side, ranges.rounding)
    else:
        size = _jittered_size(original, of_size, ranges.scale_jitter)
        window = _draw_window(size, ranges.scale_jitter.side, of_left, of_top)
    turns = _draw_quarter_turns(ranges.quarter_turn_probability, of_turn)
    # A turn by 90 degrees counterclockwise is a horizontal flip and a transpose, one by 270 degrees
    # a vertical flip and a transpose, one by 180 degrees both flips.
    return Augmentation(
        size=size,
        flip=(of_flip < ranges.flip_probability) ^ (turns in (1, 2)),
        convention=ranges.convention,
        window=window,
        vertical_flip=(of_vertical_flip < ranges.vertical_flip_probability) ^ (turns in (2, 3)),
        color=_draw_color(ranges.color_jitter, of_color),
        transpose=turns in (1, 3),
        crop=crop,
        crop_target=crop_target,
    )


def _jittered_size(original: ImageSize, fraction: float, jitter: ScaleJitterConfig) -> ImageSize:
    """Return the size of an image scaled at random relative to the largest that fits the window.

    Source: Ghiasi et al. 2021, section 3.1.
    """
    scale = jitter.min_scale + fraction * (jitter.max_scale - jitter.min_scale)
    factor = scale * jitter.side / max(original)
    return ImageSize(*(max(1, round(side * factor)) for side in original))


def _draw_window(size: ImageSize, side: int, of_left: float, of_top: float) -> Window | None:
    """Return a window of at most ``side`` pixels at a random place; None if all fits."""
    if max(size) <= side:
        return None
    window = ImageSize(min(size.height, side), min(size.width, side))
    left = int(of_left * (size.width - window.width + 1))
    top = int(of_top * (size.height - window.height + 1))
    return Window(left, top, window)


def _draw_quarter_turns(probability: float, number: float) -> int:
    """Return a number of quarter turns counterclockwise: 0, or 1, 2 or 3, all three alike."""
    return min(3, 1 + int(3 * number / probability)) if number < probability else 0


def _draw_color(jitter: ColorJitterConfig, numbers: list[float]) -> ColorFactors | None:
    """Return factors uniform in 1 +- each setting, not below 0, and a hue uniform in +- its own."""
    if not jitter.changes_colors:
        return None
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation)
    lowest = [max(0.0, 1.0 - each) for each in ranges]
    brightness, contrast, saturation = (
        low + number * (1.0 + each - low)
        for low, each, number in zip(lowest, ranges, numbers[:3], strict=True)
    )
    return ColorFactors(brightness, contrast, saturation, (2 * numbers[3] - 1) * jitter.hue)
